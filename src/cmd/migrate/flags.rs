//! The flags of a command line, one by one: settings of ours, and what has no counterpart.

use toml::{Table, Value};

use super::dialect::{Dialect, Spelled, extra_flag};
use super::document::{Left, printable};
use super::foreign;
use super::hidden::Hidden;
use super::line::Word;
use crate::config::Given;
use crate::config::cli::flag::{Flag, Kind};
use crate::config::cli::setting::Setting;
use crate::config::cli::table::{self, FLAGS};
use crate::config::cli::value::{self, ValueError, is_bootstrap_port};
use crate::config::diag::nearest::nearest;
use crate::config::spec::{WordError, WorkerUrlError};

/// What the flags say.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// Settings of flags that we have, secrets replaced by where to find them.
    pub(super) settings: Vec<Setting>,
    /// Flags without a counterpart.
    pub(super) left: Vec<Left>,
    /// Differences that a value brings along.
    pub(super) notes: Vec<String>,
    /// Flags that nothing is known about.
    pub(super) unknown: Vec<String>,
    /// Flags of the engines that the command would start.
    pub(super) engine: Vec<String>,
}

/// Why the flags cannot be understood. No variant carries a value that may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FlagError {
    /// A word that belongs to no flag.
    #[error("argument {at} belongs to no flag{}", behind(after))]
    Stray {
        /// Its place, from 1.
        at: usize,
        /// The flag before it.
        after: String,
    },
    /// A flag whose value is missing.
    #[error("`{0}` needs a value")]
    Missing(String),
    /// A value that is none.
    #[error("invalid value{} for `{flag}`: {source}", value.as_ref().map(|v| format!(" `{v}`")).unwrap_or_default())]
    Value {
        /// The flag.
        flag: String,
        /// The value, unless it may be a secret.
        value: Option<String>,
        /// What is wrong with it.
        source: ValueError,
    },
    /// A value that only a shell could fill in.
    #[error("the value of `{0}` has a variable in it whose value is not known here; write it out")]
    Open(String),
    /// Nothing is started.
    #[error("`{0}` prints something and starts nothing")]
    Prints(String),
}

fn behind(after: &str) -> String {
    match after {
        "" => String::new(),
        after => format!("; the flag before it is `{after}`"),
    }
}

/// Reads flags.
///
/// # Errors
/// [`FlagError`] for the first thing that cannot be understood.
pub(super) fn read(
    words: &[Word],
    dialect: Dialect,
    engines: bool,
    hidden: &mut Hidden,
) -> Result<Reading, FlagError> {
    let mut reader = Reader {
        words,
        at: 0,
        dialect,
        engines,
        hidden,
        last: String::new(),
        out: Reading::default(),
    };
    while reader.flag()? {}
    Ok(reader.out)
}

struct Reader<'a> {
    words: &'a [Word],
    at: usize,
    dialect: Dialect,
    engines: bool,
    hidden: &'a mut Hidden,
    /// The flag before.
    last: String,
    out: Reading,
}

impl<'a> Reader<'a> {
    /// Reads one flag with its values; `false` at the end.
    fn flag(&mut self) -> Result<bool, FlagError> {
        let Some(word) = self.words.get(self.at) else {
            return Ok(false);
        };
        self.at += 1;
        let (typed, inline) = match word.text.split_once('=') {
            Some((typed, value)) => (typed, Some(value)),
            None => (word.text.as_str(), None),
        };
        let name = match typed {
            "-c" => "config",
            "-h" | "--help" | "-V" | "--version" | "--version-verbose" => {
                return Err(FlagError::Prints(typed.to_owned()));
            }
            typed => match typed.strip_prefix("--") {
                Some(name) if !name.is_empty() => name,
                _ => {
                    return Err(FlagError::Stray {
                        at: self.at,
                        after: std::mem::take(&mut self.last),
                    });
                }
            },
        };
        self.last = printable(typed);
        let inline = inline.map(|text| Word {
            text: text.to_owned(),
            open: word.open,
        });
        let name = match (self.engines, name.strip_prefix("router-")) {
            // `router-selector` is the name of a flag of its own.
            (true, Some(name)) if name != "selector" => name,
            (true, None) if !["host", "port"].contains(&name) => {
                self.skip(inline.as_ref());
                self.out.engine.push(self.last.clone());
                return Ok(true);
            }
            _ => name,
        };
        let name = self.dialect.ours(name);
        match table::find(name).or_else(|| extra_flag(name)) {
            Some(flag) if flag.name == "config" => {
                self.skip(inline.as_ref());
                self.leave(
                    "the file stays what it is; bring its keys together with those above by hand",
                );
            }
            Some(flag) => self.setting(flag, inline)?,
            None => {
                self.skip(inline.as_ref());
                match foreign::reason(name) {
                    Some(reason) => self.leave(&reason),
                    None => {
                        let names = FLAGS
                            .iter()
                            .flat_map(|flag| flag.aliases.iter().chain([&flag.name]).copied());
                        let hint = match nearest(name, names) {
                            Some(near) => format!("; did you mean `--{near}`?"),
                            None => String::new(),
                        };
                        self.leave(&format!("is not known{hint}"));
                        self.out.unknown.push(self.last.clone());
                    }
                }
            }
        }
        Ok(true)
    }

    fn leave(&mut self, why: &str) {
        self.out.left.push(Left {
            what: format!("`{}`", self.last),
            why: why.to_owned(),
        });
    }

    /// Passes over the values of a flag whose form is not known.
    fn skip(&mut self, inline: Option<&Word>) {
        if inline.is_some() {
            return;
        }
        while self.next_value().is_some() {}
    }

    /// The next word, where it is no flag. Negative numbers are values.
    fn next_value(&mut self) -> Option<&'a Word> {
        let word = self.words.get(self.at)?;
        let number = word.text.parse::<f64>().is_ok();
        if word.text.starts_with('-') && word.text.len() > 1 && !number {
            return None;
        }
        self.at += 1;
        Some(word)
    }

    fn setting(&mut self, flag: &'static Flag, inline: Option<Word>) -> Result<(), FlagError> {
        let mut texts: Vec<Word> = inline.into_iter().collect();
        match flag.kind {
            Kind::Switch if texts.is_empty() => texts.push(Word {
                text: "true".to_owned(),
                open: false,
            }),
            Kind::Switch => {}
            Kind::Prefill => {
                if texts.is_empty() {
                    texts.extend(self.next_value().cloned());
                }
                if let Some(url) = texts.first_mut()
                    && let Some(port) = self.words.get(self.at)
                    && is_bootstrap_port(&port.text)
                {
                    self.at += 1;
                    url.text = format!("{} {}", url.text, port.text);
                }
            }
            kind if kind.is_many() => {
                while let Some(word) = self.next_value() {
                    texts.push(word.clone());
                }
                if texts.is_empty() && self.dialect != Dialect::Smg {
                    return Ok(());
                }
            }
            _ if texts.is_empty() => texts.extend(self.next_value().cloned()),
            _ => {}
        }
        if texts.is_empty() {
            return Err(FlagError::Missing(self.last.clone()));
        }
        let mut values = Vec::new();
        for word in &texts {
            values.extend(self.value(flag, word)?);
        }
        if values.is_empty() {
            return Ok(());
        }
        let shown = self.shown(flag, &texts);
        let at = (self.out.settings.iter()).position(|setting| setting.flag.name == flag.name);
        match at.and_then(|at| self.out.settings.get_mut(at)) {
            None => self.out.settings.push(Setting {
                flag,
                given: Given::Flag(shown),
                values,
            }),
            Some(setting) => {
                let adds = flag.kind.is_list()
                    && !(flag.kind.is_many()
                        && self.dialect.replaces_lists()
                        && flag.name != "decode");
                if adds {
                    setting.values.extend(values);
                } else {
                    if flag.kind.is_list() {
                        let note = "of several the last one counts, as it does there";
                        self.out.notes.push(format!("`{}`: {note}", self.last));
                    }
                    setting.values = values;
                    setting.given = Given::Flag(shown);
                }
            }
        }
        Ok(())
    }

    /// The value of a flag; `None` if this version cannot have it, which is told.
    fn value(&mut self, flag: &'static Flag, word: &Word) -> Result<Option<Value>, FlagError> {
        if flag.kind.is_secret() {
            return self
                .hidden
                .value(flag, &word.text)
                .map(Some)
                .map_err(|source| FlagError::Value {
                    flag: self.last.clone(),
                    value: None,
                    source,
                });
        }
        if word.open {
            return Err(FlagError::Open(self.last.clone()));
        }
        if flag.name == "assignment-mode" && word.text == "delegate" {
            self.leave("`delegate` is no way to place keys here; see `policy.manual`");
            return Ok(None);
        }
        let text = match self.dialect.value(flag, &word.text) {
            Spelled::Same => word.text.as_str(),
            Spelled::As(text) => text,
            Spelled::Nearly(text, note) => {
                self.out.notes.push(note.to_owned());
                text
            }
        };
        match value::parse(flag.kind, text) {
            Ok(value) => Ok(Some(value)),
            Err(source) if is_later(&source) => {
                self.leave(&format!("{source}{}", instead(&source)));
                Ok(None)
            }
            Err(source) => Err(FlagError::Value {
                flag: self.last.clone(),
                // A URL may hold a password.
                value: (!text.contains('@')).then(|| printable(text)),
                source,
            }),
        }
    }

    /// The flag as a comment shows it.
    fn shown(&self, flag: &Flag, texts: &[Word]) -> String {
        const LONGEST: usize = 48;
        if flag.kind.is_secret() || flag.kind == Kind::Switch || flag.kind.is_list() {
            return self.last.clone();
        }
        match texts {
            [one] if one.text.chars().count() <= LONGEST && !one.text.contains('@') => {
                format!("{} {}", self.last, printable(&one.text))
            }
            _ => self.last.clone(),
        }
    }
}

/// Whether a value is one of a later version.
pub(super) fn is_later(source: &ValueError) -> bool {
    matches!(
        source,
        ValueError::Word(WordError::Later { .. }) | ValueError::Url(WorkerUrlError::SchemeLater(_))
    )
}

fn instead(source: &ValueError) -> &'static str {
    match source {
        ValueError::Url(_) => "; serve HTTP from the engine and write its `http://` URL",
        _ => "",
    }
}

/// A setting that no word of the command line says.
pub(super) fn implied(flag: &'static Flag, given: &Given, value: impl Into<Value>) -> Setting {
    Setting {
        flag,
        given: given.clone(),
        values: vec![value.into()],
    }
}

/// The table that says in which variable a secret is.
pub(super) fn in_variable(name: &str) -> Value {
    Value::Table(Table::from_iter([("env".to_owned(), Value::from(name))]))
}
