//! A command line as text, read the way a shell does as far as launch commands go.

use std::collections::BTreeMap;

/// One word of a command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Word {
    /// The word; variables that are not known stand in it as `${NAME}`.
    pub(super) text: String,
    /// Whether there are such variables in it.
    pub(super) open: bool,
}

/// Why a text is no command line that can be read without running it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LineError {
    /// A quote without its end.
    #[error("line {line}: a quote is not closed")]
    Quote {
        /// The line, from 1.
        line: usize,
    },
    /// What a command prints is not known here.
    #[error("line {line}: `$(…)` would have to be run; write what it gives")]
    Substitution {
        /// The line, from 1.
        line: usize,
    },
}

/// Words that were given one by one.
pub(super) fn words(args: impl IntoIterator<Item = String>) -> Vec<Word> {
    args.into_iter()
        .map(|text| Word { text, open: false })
        .collect()
}

/// The commands of a text. Variables that it sets are filled in where it uses them.
///
/// # Errors
/// [`LineError`] with the line that cannot be read.
pub(super) fn split(text: &str) -> Result<Vec<Vec<Word>>, LineError> {
    let mut splitter = Splitter {
        rest: text.chars().collect(),
        at: 0,
        line: 1,
        commands: Vec::new(),
        command: Vec::new(),
        word: None,
        variables: BTreeMap::new(),
        skip: false,
    };
    splitter.run()?;
    Ok(splitter.commands)
}

/// Name and value of a word that sets a variable.
pub(super) fn assignment(word: &Word) -> Option<(&str, &str)> {
    let (name, value) = word.text.split_once('=')?;
    is_name(name).then_some((name, value))
}

/// The variable that a text consists of, as `$NAME` or `${NAME}`.
pub(super) fn variable(text: &str) -> Option<&str> {
    let name = text.strip_prefix('$')?;
    let name = match name.strip_prefix('{') {
        Some(inner) => inner.strip_suffix('}')?,
        None => name,
    };
    is_name(name).then_some(name)
}

/// Whether a text is the name of a variable.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

struct Splitter {
    rest: Vec<char>,
    at: usize,
    line: usize,
    commands: Vec<Vec<Word>>,
    command: Vec<Word>,
    word: Option<Word>,
    variables: BTreeMap<String, String>,
    /// Whether the next word is the file of a redirection.
    skip: bool,
}

impl Splitter {
    fn run(&mut self) -> Result<(), LineError> {
        while let Some(c) = self.next() {
            match c {
                '\n' => {
                    self.end_word();
                    // Flags at the start of a line belong to the command above, also where the
                    // backslash got lost.
                    let next = self.rest.get(self.at..).unwrap_or_default();
                    if next.iter().find(|c| !c.is_whitespace()) != Some(&'-') {
                        self.end_command();
                    }
                }
                c if c.is_whitespace() => self.end_word(),
                '\\' => match self.next() {
                    Some('\n') => {}
                    Some('\r') if self.peek() == Some('\n') => {
                        self.next();
                    }
                    Some(c) => self.push(c),
                    None => {}
                },
                '\'' => self.single()?,
                '"' => self.double()?,
                '$' => self.dollar()?,
                '`' => return Err(LineError::Substitution { line: self.line }),
                '#' if self.word.is_none() => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.next();
                    }
                }
                ';' | '|' | '&' => {
                    self.end_word();
                    self.end_command();
                }
                '<' | '>' => {
                    // The number of a descriptor is part of the redirection.
                    if (self.word.as_ref())
                        .is_some_and(|w| w.text.bytes().all(|b| b.is_ascii_digit()))
                    {
                        self.word = None;
                    }
                    self.end_word();
                    while self.peek().is_some_and(|c| "<>&".contains(c)) {
                        self.next();
                    }
                    self.skip = true;
                }
                c => self.push(c),
            }
        }
        self.end_word();
        self.end_command();
        Ok(())
    }

    fn single(&mut self) -> Result<(), LineError> {
        let line = self.line;
        self.open();
        loop {
            match self.next() {
                Some('\'') => return Ok(()),
                Some(c) => self.push(c),
                None => return Err(LineError::Quote { line }),
            }
        }
    }

    fn double(&mut self) -> Result<(), LineError> {
        let line = self.line;
        self.open();
        loop {
            match self.next() {
                Some('"') => return Ok(()),
                Some('\\') => match self.next() {
                    Some('\n') => {}
                    Some(c) if "\"\\$`".contains(c) => self.push(c),
                    Some(c) => {
                        self.push('\\');
                        self.push(c);
                    }
                    None => return Err(LineError::Quote { line }),
                },
                Some('$') => self.dollar()?,
                Some('`') => return Err(LineError::Substitution { line: self.line }),
                Some(c) => self.push(c),
                None => return Err(LineError::Quote { line }),
            }
        }
    }

    /// What follows a `$`: a variable, or nothing special.
    fn dollar(&mut self) -> Result<(), LineError> {
        let (name, default) = match self.peek() {
            Some('(') => return Err(LineError::Substitution { line: self.line }),
            Some('{') => {
                let line = self.line;
                self.next();
                let mut inner = String::new();
                loop {
                    match self.next() {
                        Some('}') => break,
                        Some(c) => inner.push(c),
                        None => return Err(LineError::Quote { line }),
                    }
                }
                match inner.split_once(":-") {
                    Some((name, default)) => (name.to_owned(), Some(default.to_owned())),
                    None => match inner.split_once([':', '?', '-', '+', '=']) {
                        Some((name, _)) => (name.to_owned(), None),
                        None => (inner, None),
                    },
                }
            }
            _ => {
                let mut name = String::new();
                while let Some(c) = self
                    .peek()
                    .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
                {
                    name.push(c);
                    self.next();
                }
                (name, None)
            }
        };
        if !is_name(&name) {
            self.push('$');
            name.chars().for_each(|c| self.push(c));
            return Ok(());
        }
        self.open();
        let known = self.variables.get(&name).cloned().or(default);
        if let Some(word) = &mut self.word {
            match known {
                Some(value) => word.text.push_str(&value),
                None => {
                    word.text.push_str(&format!("${{{name}}}"));
                    word.open = true;
                }
            }
        }
        Ok(())
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.get(self.at).copied()?;
        self.at += 1;
        self.line += usize::from(c == '\n');
        Some(c)
    }

    fn peek(&self) -> Option<char> {
        self.rest.get(self.at).copied()
    }

    fn open(&mut self) {
        self.word.get_or_insert_default();
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().text.push(c);
    }

    fn end_word(&mut self) {
        let Some(word) = self.word.take() else {
            return;
        };
        match self.skip {
            true => self.skip = false,
            false => self.command.push(word),
        }
    }

    fn end_command(&mut self) {
        self.skip = false;
        let command = std::mem::take(&mut self.command);
        let exported = command.first().is_some_and(|word| word.text == "export");
        let settings = command.iter().skip(usize::from(exported));
        for word in settings.take_while(|word| assignment(word).is_some()) {
            if let Some((name, value)) = assignment(word)
                && !word.open
            {
                self.variables.insert(name.to_owned(), value.to_owned());
            }
        }
        if !command.is_empty() {
            self.commands.push(command);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        let commands = split(text).unwrap();
        let join = |command: &Vec<Word>| {
            let words: Vec<&str> = command.iter().map(|word| word.text.as_str()).collect();
            words.join("|")
        };
        commands.iter().map(join).collect()
    }

    #[test]
    fn words_and_commands() {
        for (text, commands) in [
            ("smg  --port 1", &["smg|--port|1"][..]),
            (
                "smg \\\n  --port 1 \\\r\n --host h",
                &["smg|--port|1|--host|h"],
            ),
            ("smg\n--port 1\n\n--host h", &["smg|--port|1|--host|h"]),
            ("a 'b c' \"d \\\" e\" f\\ g ''", &["a|b c|d \" e|f g|"]),
            ("A=1 smg --x \"${A}-$B\"", &["A=1|smg|--x|${A}-${B}"]),
            (
                "export A=1\nsmg --x $A ${B:-2}",
                &["export|A=1", "smg|--x|1|2"],
            ),
            ("cd x && smg --y 1 >log 2>&1 &", &["cd|x", "smg|--y|1"]),
            ("# note\nsmg --x a#b # end", &["smg|--x|a#b"]),
            ("smg --x '$A' '`'", &["smg|--x|$A|`"]),
            ("", &[]),
        ] {
            assert_eq!(read(text), commands, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read() {
        assert_eq!(split("a\n'b"), Err(LineError::Quote { line: 2 }));
        assert_eq!(split("\"b"), Err(LineError::Quote { line: 1 }));
        assert_eq!(split("a ${b"), Err(LineError::Quote { line: 1 }));
        for text in ["a $(b)", "a `b`", "a \"`b`\""] {
            assert_eq!(
                split(text),
                Err(LineError::Substitution { line: 1 }),
                "{text}"
            );
        }
    }

    #[test]
    fn one_variable_and_nothing_else() {
        assert_eq!(variable("$A_1"), Some("A_1"));
        assert_eq!(variable("${A}"), Some("A"));
        for text in ["A", "$", "${A", "$A-", "${A}x", "$1"] {
            assert_eq!(variable(text), None, "{text}");
        }
    }
}
