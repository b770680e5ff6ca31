//! The files of `packaging/systemd`, as their lines.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::smg;

/// Where the units expect the binary and its file.
const BINARY: &str = "/usr/bin/smg";
const CONFIG: &str = "/etc/smg/smg.toml";

/// A unit: its settings in the order of the file.
pub(crate) struct Unit(Vec<(String, String)>);

/// The path of a file of `packaging/systemd`.
pub(crate) fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("packaging/systemd")
        .join(name)
}

/// The text of a file of `packaging/systemd`.
pub(crate) fn text(name: &str) -> String {
    std::fs::read_to_string(path(name)).unwrap()
}

impl Unit {
    pub(crate) fn read(name: &str) -> Self {
        let text = text(name);
        let settings = text.lines().filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            (!key.starts_with('#')).then(|| (key.to_owned(), value.to_owned()))
        });
        Self(settings.collect())
    }

    /// The value of a setting that stands there once.
    #[track_caller]
    pub(crate) fn value(&self, key: &str) -> &str {
        let mut found = self.0.iter().filter(|(name, _)| name == key);
        let (_, value) = found.next().unwrap_or_else(|| panic!("no {key}="));
        assert!(found.next().is_none(), "{key}= stands there twice");
        value
    }

    /// The command of a setting, with the built binary and this file in the places of the installed
    /// ones. Its environment is empty but for what every test lets through.
    #[track_caller]
    pub(crate) fn command(&self, key: &str, config: &Path) -> Command {
        let mut words = self.value(key).split_whitespace();
        assert_eq!(words.next(), Some(BINARY), "{key}=");
        let mut command = smg::command();
        for word in words {
            match word {
                CONFIG => command.arg(config),
                word => command.arg(word),
            };
        }
        command
    }
}
