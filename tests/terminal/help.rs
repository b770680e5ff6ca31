//! The short help and the long one.

use crate::tools::{printed, smg};

#[test]
fn the_short_help_fits_a_screen() {
    for flag in ["--help", "-h"] {
        let help = printed(&[flag]);
        let long: Vec<&str> = help
            .lines()
            .filter(|line| line.chars().count() > 80)
            .collect();
        assert!(long.is_empty(), "{long:#?}");
        // One line is left for the prompt.
        assert!(help.lines().count() <= 23, "{help}");
        for wanted in [
            "check-config ",
            "reload ",
            "top ",
            "--config <PATH>",
            "smg help",
        ] {
            assert!(help.contains(wanted), "no `{wanted}`:\n{help}");
        }
    }
}

#[test]
fn the_long_help_has_every_command_and_each_has_its_own() {
    let help = printed(&["help"]);
    for command in [
        &["launch"][..],
        &["check-config"],
        &["reload"],
        &["upgrade"],
        &["explain"],
        &["top"],
        &["config"],
        &["config", "dump"],
        &["config", "diff"],
        &["config", "from-flags"],
        &["config", "import"],
        &["key"],
        &["key", "new"],
        &["key", "hash"],
        &["sample-worker"],
        &["schema"],
        &["completions"],
        &["man"],
        &["help"],
    ] {
        if let [name] = command {
            assert!(help.contains(&format!("\n  {name} ")), "{name}:\n{help}");
        }
        let own = printed(&[&["help"], command].concat());
        let usage = format!("Usage: smg {}", command.join(" "));
        assert!(own.contains(&usage), "{own}");
        let short = printed(&[command, &["--help"]].concat());
        assert!(short.contains(&usage), "{short}");
    }
}

#[test]
fn mistakes_point_to_the_help() {
    for (args, said) in [
        (&["relaod"][..], "'reload'"),
        (&["--prot", "1"], "'--port'"),
        (&["top", "--onec"], "'--once'"),
        (&["config", "dmp"], "'dump'"),
        (&["help", "frob"], "`frob`"),
        (&["top", "--interval", "1ms"], "from 100ms to 1h"),
    ] {
        let output = smg(args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(said), "{text}");
        assert!(text.contains("help"), "{text}");
    }
}
