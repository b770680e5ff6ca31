//! A manual page, piece by piece.

/// A page under construction. Text is plain, but for literals in backticks, which are set in bold.
#[derive(Debug, Default)]
pub(super) struct Page {
    out: String,
    /// Whether a section has just begun, which begins a paragraph, too.
    fresh: bool,
}

impl Page {
    /// A page of this name in this section of the manual. It bears no date, as it would be made
    /// anew each day.
    pub(super) fn new(name: &str, section: u8, manual: &str) -> Self {
        let mut page = Self::default();
        let source = format!("smg {}", crate::cmd::version::SHORT);
        let [name, source, manual] = [name, &source, manual].map(quoted);
        page.line(&format!(".TH {name} \"{section}\" \"\" {source} {manual}"));
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
        self.fresh = true;
    }

    /// A section inside a section.
    pub(super) fn subsection(&mut self, name: &str) {
        self.line(&format!(".SS {}", quoted(name)));
        self.fresh = true;
    }

    /// A paragraph.
    pub(super) fn paragraph(&mut self, text: &str) {
        self.begin();
        self.text(text);
    }

    /// An entry of a list: a tag, in roff, and paragraphs.
    pub(super) fn item(&mut self, tag: &str, paragraphs: &[&str]) {
        self.fresh = false;
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
        self.begin();
        self.line(".RS 4");
        self.line(".nf");
        for line in lines.lines() {
            self.line(&guarded(&escaped(line)));
        }
        self.line(".fi");
        self.line(".RE");
    }

    fn begin(&mut self) {
        if !std::mem::take(&mut self.fresh) {
            self.line(".PP");
        }
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
