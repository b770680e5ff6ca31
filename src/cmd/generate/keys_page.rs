//! The manual page `smg.toml(5)`.

use super::reference::{Key, Table, tables};
use super::roff::{Page, bold};

/// The page, in roff.
pub(super) fn page() -> String {
    let mut page = Page::new("SMG.TOML", 5, "File formats");
    page.section("NAME");
    page.paragraph("smg.toml - configuration of the LLM gateway smg");
    for (name, paragraphs) in super::prose::INTRODUCTION {
        page.section(name);
        for paragraph in *paragraphs {
            match paragraph.strip_prefix(super::prose::VERBATIM) {
                Some(lines) => page.verbatim(lines),
                None => page.paragraph(paragraph),
            }
        }
    }
    page.section("KEYS");
    for table in tables() {
        write(&mut page, &table);
    }
    page.section("SEE ALSO");
    page.paragraph("`smg`(1)");
    page.finish()
}

fn write(page: &mut Page, table: &Table) {
    match table.header.as_str() {
        "" => page.subsection("Above all tables"),
        header => {
            page.subsection(header);
            page.paragraph(&table.about);
        }
    }
    for key in &table.keys {
        let facts = facts(key);
        let flags = flags(key);
        let mut paragraphs = vec![key.about.as_str(), facts.as_str()];
        if !flags.is_empty() {
            paragraphs.push(&flags);
        }
        page.item(&bold(&key.name), &paragraphs);
    }
}

fn facts(key: &Key) -> String {
    format!(
        "Value: {}. Default: {}. Range: {}. Reload: {}.",
        key.unit, key.default, key.range, key.reload
    )
}

fn flags(key: &Key) -> String {
    let flags = key.flags.iter();
    let names: Vec<String> = flags
        .map(|flag| format!("`{}`, variable `{}`", flag.dashed(), flag.variable()))
        .collect();
    match names.is_empty() {
        true => String::new(),
        false => format!("Flag: {}.", names.join("; ")),
    }
}
