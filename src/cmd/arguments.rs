//! What clap cannot be told about the command line.

use std::ffi::{OsStr, OsString};

use crate::config::cli::value::is_bootstrap_port;

/// The flag whose value may be followed by a second one, which only its form tells.
const PREFILL: &str = "--prefill";

/// The arguments, where the URL of each `--prefill` and the port behind it are one argument.
pub(super) fn joined(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut out: Vec<OsString> = Vec::new();
    let mut args = args.into_iter().peekable();
    while let Some(mut arg) = args.next() {
        if arg == "--" {
            out.push(arg);
            out.extend(args);
            break;
        }
        let text = arg.to_str().unwrap_or_default();
        let alone = text == PREFILL;
        let has_url = text
            .strip_prefix(PREFILL)
            .is_some_and(|rest| rest.starts_with('='));
        let is_url = |next: &OsStr| !next.to_string_lossy().starts_with("--");
        if alone && let Some(url) = args.next_if(|next| is_url(next)) {
            arg.push("=");
            arg.push(url);
        } else if !has_url {
            out.push(arg);
            continue;
        }
        let is_port = |next: &OsString| next.to_str().is_some_and(is_bootstrap_port);
        if let Some(port) = args.next_if(is_port) {
            arg.push(" ");
            arg.push(port);
        }
        out.push(arg);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_belongs_to_the_url_before_it() {
        for (typed, joined_up) in [
            (
                "smg --prefill u 9001 --decode d",
                "smg|--prefill=u 9001|--decode|d",
            ),
            ("smg --prefill=u 9001 launch", "smg|--prefill=u 9001|launch"),
            ("smg --prefill u NONE x", "smg|--prefill=u NONE|x"),
            ("smg --prefill u launch", "smg|--prefill=u|launch"),
            ("smg --prefill u 70000", "smg|--prefill=u|70000"),
            ("smg --prefill u -1", "smg|--prefill=u|-1"),
            (
                "smg --prefill u --prefill v 0",
                "smg|--prefill=u|--prefill=v 0",
            ),
            ("smg --prefill --decode d", "smg|--prefill|--decode|d"),
            ("smg --prefill", "smg|--prefill"),
            (
                "smg --prefill-policy random 1",
                "smg|--prefill-policy|random|1",
            ),
            ("smg -- --prefill u 1", "smg|--|--prefill|u|1"),
        ] {
            let args = joined(typed.split(' ').map(OsString::from));
            let args: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
            assert_eq!(args.join("|"), joined_up, "{typed}");
        }
    }
}
