//! The commands of a page, run from top to bottom in one shell, as one reader would.
//!
//! Each page has a machine of its own as far as that can be had from namespaces: a network of
//! nothing but loopback (to which `10.0.0.0/8` belongs, where the pages put their workers), an
//! `/etc`, `/run`, `/var/lib` and `/var/log` that are thrown away, and processes that end with
//! it. So ports and paths are those that are printed.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::compare;
use crate::page::{Block, Page, root};

/// For all of a page, in seconds.
const DEADLINE: &str = "180";
/// What the commands find in front of their `PATH`.
const PROGRAM: &str = env!("CARGO_BIN_EXE_smg");

const NAMESPACES: &[&str] = &[
    "--mount",
    "--net",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
];

/// Runs the steps in one shell. `$1` is the folder that holds everything.
const DRIVER: &str = r#"
ip link set lo up && ip route add local 10.0.0.0/8 dev lo || exit 99
cp -a /etc "$1/etc" 2>/dev/null
mount --bind "$1/etc" /etc && mount -t tmpfs none /run || exit 99
mount -t tmpfs none /var/lib && mount -t tmpfs none /var/log || exit 99
cd "$1/home" || exit 99
stage=$1
: >"$stage/status"
for step in "$stage"/steps/*; do
    eval "$(<"$step")" >"$stage/printed/${step##*/}" 2>&1 </dev/null
    echo "${step##*/} $?" >>"$stage/status"
done
exit 0
"#;

struct Step {
    line: usize,
    command: String,
    status: i32,
    /// What it should print, where that matters.
    output: Option<String>,
}

/// Where the commands of a page do not do what it says.
pub(crate) fn deviations(page: &Page) -> Vec<String> {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let steps: Vec<_> = page
        .blocks
        .iter()
        .flat_map(|block| steps(block, dir.path()))
        .collect();
    if steps.iter().all(|step| step.line == 0) || !can_unshare() {
        return Vec::new();
    }
    perform(dir.path(), &steps);

    let status = std::fs::read_to_string(dir.path().join("status")).unwrap_or_default();
    let mut ended = status.lines().filter_map(|line| line.split_once(' '));
    let mut findings = Vec::new();
    let mut changes = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        let printed = std::fs::read(dir.path().join(format!("printed/{number:03}")));
        let printed = String::from_utf8_lossy(&printed.unwrap_or_default())
            .replace(&*dir.path().join("home").to_string_lossy(), "~");
        let place = format!("{}:{}: $ {}", page.path, step.line, step.command.trim());
        let Some((_, status)) = ended.next() else {
            findings.push(format!("{place}\ndid not end; so far:\n{printed}"));
            return findings;
        };
        if status.parse() != Ok(step.status) {
            findings.push(format!(
                "{place}\nended with {status}, not {}:\n{printed}",
                step.status
            ));
        } else if let Some(expected) = &step.output
            && let Some(difference) = compare::difference(expected, &printed)
        {
            findings.push(format!("{place}\n{difference}"));
            changes.push((step, printed));
        }
    }
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        rewrite(page, &changes);
    }
    findings
}

/// Puts what was printed into the page, for its author to look at.
fn rewrite(page: &Page, changes: &[(&Step, String)]) {
    let path = root().join(&page.path);
    let text = std::fs::read_to_string(&path).unwrap();
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    for (step, printed) in changes.iter().rev() {
        let begin = step.line - 1 + step.command.lines().count();
        let shown = step.output.as_deref().unwrap_or_default().lines().count();
        let printed = printed
            .trim_end()
            .lines()
            .map(|line| line.trim_end().to_owned());
        lines.splice(begin..begin + shown, printed);
    }
    std::fs::write(&path, lines.join("\n") + "\n").unwrap();
}

fn perform(dir: &Path, steps: &[Step]) {
    for folder in ["steps", "printed", "home", "bin"] {
        std::fs::create_dir_all(dir.join(folder)).unwrap();
    }
    for (number, step) in steps.iter().enumerate() {
        std::fs::write(dir.join(format!("steps/{number:03}")), &step.command).unwrap();
    }
    std::os::unix::fs::symlink(PROGRAM, dir.join("bin/smg")).unwrap();
    let mut command = Command::new("timeout");
    command
        .args(["--signal=KILL", DEADLINE])
        .arg("unshare")
        .args(user_namespace())
        .args(NAMESPACES)
        .args(["bash", "-c", DRIVER, "driver"])
        .arg(dir)
        .env_clear()
        .env(
            "PATH",
            format!(
                "{}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                dir.display()
            ),
        )
        .env("HOME", dir.join("home"))
        .env("LANG", "C.UTF-8")
        .env("TERM", "dumb");
    let output = command.output().unwrap();
    assert!(
        output.status.code() != Some(99),
        "there is no stage: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn steps(block: &Block, dir: &Path) -> Vec<Step> {
    if let Some(path) = block.value("file") {
        return vec![write(block, path, dir)];
    }
    if block.has("not-run") {
        return Vec::new();
    }
    if block.has("background") {
        let mut steps = commands(&block.text, block.line, false);
        for step in &mut steps {
            step.command += " &";
        }
        return steps;
    }
    match &*block.language {
        "sh" | "stage" => commands(&block.text, block.line, false),
        "console" => commands(&block.text, block.line, true),
        _ => Vec::new(),
    }
}

/// A file that the page shows, put where it says.
fn write(block: &Block, path: &str, dir: &Path) -> Step {
    let kept = dir.join(format!("file-{}", block.line));
    std::fs::write(&kept, &block.text).unwrap();
    let arrow = if block.has("append") { ">>" } else { ">" };
    Step {
        line: block.line,
        command: format!(
            "mkdir -p \"$(dirname {path})\" && cat '{}' {arrow} {path}",
            kept.display()
        ),
        status: 0,
        output: None,
    }
}

fn commands(text: &str, line: usize, has_prompts: bool) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, text)) = lines.next() {
        let begin = if has_prompts {
            text.strip_prefix("$ ")
        } else {
            Some(text)
        };
        let Some(begin) = begin else {
            if let Some(output) = steps.last_mut().and_then(|step| step.output.as_mut()) {
                writeln!(output, "{text}").unwrap();
            }
            continue;
        };
        if begin.trim().is_empty() || begin.trim_start().starts_with('#') {
            continue;
        }
        let mut command = begin.to_owned();
        while !is_complete(&command) && lines.peek().is_some() {
            let (_, more) = lines.next().unwrap();
            command += "\n";
            command += more.strip_prefix("> ").unwrap_or(more);
        }
        let is_background = command
            .split(" #")
            .next()
            .unwrap_or_default()
            .trim()
            .ends_with('&');
        steps.push(Step {
            line: line + number + 1,
            status: expected_status(&command),
            command,
            output: (has_prompts && !is_background).then(String::new),
        });
    }
    steps
}

/// Whether a shell would run this rather than ask for more.
fn is_complete(command: &str) -> bool {
    let parses = Command::new("bash")
        .args(["-n", "-c", command])
        .output()
        .unwrap()
        .status
        .success();
    parses && !command.ends_with('\\')
}

fn expected_status(command: &str) -> i32 {
    command
        .split_once(" #")
        .and_then(|(_, comment)| comment.split_once("exit status "))
        .and_then(|(_, status)| status.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Namespaces without being root need one more, of users.
fn user_namespace() -> &'static [&'static str] {
    let output = Command::new("id").arg("-u").output().unwrap();
    if output.stdout == b"0\n" {
        &[]
    } else {
        &["--user", "--map-root-user"]
    }
}

/// Whether namespaces can be had. Without them the commands are not run, with the reason printed;
/// in CI that is a failure.
fn can_unshare() -> bool {
    let output = Command::new("unshare")
        .args(user_namespace())
        .args(NAMESPACES)
        .args(["ip", "link", "set", "lo", "up"])
        .output();
    let reason = match output {
        Ok(output) if output.status.success() => return true,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    let is_set =
        |name| std::env::var(name).is_ok_and(|value| !matches!(&*value, "" | "0" | "false"));
    assert!(
        !is_set("CI") && !is_set("SMG_REQUIRE_ALL"),
        "no namespaces: {reason}"
    );
    eprintln!("skipped: the commands are not run: no namespaces: {reason}");
    false
}
