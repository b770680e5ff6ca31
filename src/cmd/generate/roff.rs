//! A manual page, piece by piece.

/// A page under construction. Text is plain, but for literals in backticks, which are set in bold.
#[derive(Debug, Default)]
pub(super) struct Page {
    out: String,
}

impl Page {
    /// A page that begins with `head`, which is roff already.
    pub(super) fn new(head: String) -> Self {
        let mut page = Self { out: head };
        // Ragged lines without hyphens: names of keys and variables stay whole.
        page.line(".nh");
        page.line(".ad l");
        page
    }

    /// The finished page.
    pub(super) fn finish(self) -> String {
        self.out
    }

    /// A section.
    pub(super) fn section(&mut self, name: &str) {
        self.line(&format!(".SH {}", quoted(name)));
    }

    /// A section inside a section.
    pub(super) fn subsection(&mut self, name: &str) {
        self.line(&format!(".SS {}", quoted(name)));
    }

    /// A paragraph.
    pub(super) fn paragraph(&mut self, text: &str) {
        self.line(".PP");
        self.text(text);
    }

    /// An entry of a list: a tag, in roff, and paragraphs.
    pub(super) fn item(&mut self, tag: &str, paragraphs: &[&str]) {
        self.line(".TP");
        self.line(tag);
        for (i, paragraph) in paragraphs.iter().enumerate() {
            if i > 0 {
                self.line(".br");
            }
            self.text(paragraph);
        }
    }

    /// Lines that stand as they are, indented.
    pub(super) fn verbatim(&mut self, lines: &str) {
        self.line(".PP");
        self.line(".RS 4");
        self.line(".nf");
        for line in lines.lines() {
            self.line(&guarded(&escaped(line)));
        }
        self.line(".fi");
        self.line(".RE");
    }

    fn text(&mut self, text: &str) {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        self.line(&guarded(&marked_up(&text)));
    }

    fn line(&mut self, line: &str) {
        self.out.push_str(&format!("{line}\n"));
    }
}

/// Text in bold.
pub(super) fn bold(text: &str) -> String {
    format!("\\fB{}\\fR", escaped(text))
}

/// Text in italics, as for what the reader replaces.
pub(super) fn italic(text: &str) -> String {
    format!("\\fI{}\\fR", escaped(text))
}

fn marked_up(text: &str) -> String {
    let mut out = String::new();
    for (i, part) in text.split('`').enumerate() {
        match i % 2 {
            0 => out.push_str(&escaped(part)),
            _ => out.push_str(&bold(part)),
        }
    }
    out
}

fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\e"),
            '-' => out.push_str("\\-"),
            '…' => out.push_str("..."),
            '\'' => out.push_str("\\(aq"),
            '^' => out.push_str("\\(ha"),
            '~' => out.push_str("\\(ti"),
            c => out.push(c),
        }
    }
    out
}

/// A line that begins with a dot would be a command.
fn guarded(line: &str) -> String {
    match line.starts_with(['.', '\'']) {
        true => format!("\\&{line}"),
        false => line.to_owned(),
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", escaped(name).replace('"', "\\(dq"))
}
