//! The pages: every command in them is run as printed and its output compared, every piece of
//! configuration is checked, every link leads somewhere, and the index lists every page.
//!
//! What a page may say in the info string of a block:
//!
//! - `console`: lines with `$ ` are commands, what follows is all of their output; `…` stands for
//!   any text in a line, a line `…` for any lines. `sh`: commands whose output does not matter. A
//!   comment `# exit status N` behind a command says that it must end with `N`;
//! - `file=PATH` on any block: written there before the next command; with `append` added to it;
//! - `toml` without `file=`: must pass `check-config`, as a whole file or as a part of one;
//!   `toml invalid`: must not;
//! - `background`: the commands do not end by themselves;
//! - `not-run="reason"`: the commands cannot be run here, and why.
//!
//! `UPDATE_GOLDEN=1` writes what was printed into the page where it differs.
//!
//! `<!-- stage … -->` holds commands that set the scene and that a reader does not need to see.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the gateway; a test reads files as they are"
)]

#[cfg(test)]
mod compare;
#[cfg(test)]
mod links;
#[cfg(test)]
mod page;
#[cfg(test)]
mod snippets;
#[cfg(test)]
mod story;

#[cfg(test)]
mod pages {
    use crate::page::{Page, documents};
    use crate::{links, snippets, story};

    macro_rules! pages {
        ($($test:ident: $path:literal),+ $(,)?) => {
            $(
                #[test]
                fn $test() {
                    check(&Page::read($path));
                }
            )+
            const TESTED: &[&str] = &[$($path),+];
        };
    }

    pages! {
        readme: "README.md",
        architecture: "docs/ARCHITECTURE.md",
        config: "docs/CONFIG.md",
        configuration: "docs/CONFIGURATION.md",
        getting_started: "docs/GETTING-STARTED.md",
        metrics: "docs/METRICS.md",
        migration: "docs/MIGRATION.md",
        observability: "docs/OBSERVABILITY.md",
        operations: "docs/OPERATIONS.md",
        index: "docs/README.md",
        reliability: "docs/RELIABILITY.md",
        reload: "docs/RELOAD.md",
        routing_bench: "docs/ROUTING-BENCH.md",
        routing: "docs/ROUTING.md",
        security: "docs/SECURITY.md",
    }

    /// Commands that cannot be run are the exception.
    const NOT_RUN_AT_MOST: usize = 24;

    fn check(page: &Page) {
        let mut findings = links::broken(page);
        findings.extend(snippets::mistakes(page));
        findings.extend(story::deviations(page));
        assert!(
            findings.is_empty(),
            "{}: {} findings\n\n{}\n",
            page.path,
            findings.len(),
            findings.join("\n\n")
        );
    }

    #[test]
    fn every_page_is_tested() {
        let all = documents();
        assert!(
            all.iter().map(String::as_str).eq(TESTED.iter().copied()),
            "the pages are {all:?}, the tested ones {TESTED:?}"
        );
    }

    #[test]
    fn the_index_lists_every_page() {
        let index = Page::read("docs/README.md");
        let listed = links::targets(&index);
        let missing: Vec<_> = documents()
            .into_iter()
            .filter(|path| !matches!(&**path, "README.md" | "docs/README.md"))
            .filter(|path| !listed.contains(&path.replace("docs/", "")))
            .collect();
        assert!(missing.is_empty(), "not in docs/README.md: {missing:?}");
    }

    #[test]
    fn what_is_not_run_has_a_reason() {
        let mut count = 0;
        for path in documents() {
            for block in Page::read(&path).blocks {
                if let Some(reason) = block.value("not-run") {
                    println!("{path}:{}: not run: {reason}", block.line);
                    assert!(
                        reason.split_whitespace().count() > 2,
                        "{path}:{}: `not-run` without a reason",
                        block.line
                    );
                    count += 1;
                }
            }
        }
        assert!(
            count <= NOT_RUN_AT_MOST,
            "{count} blocks are not run, {NOT_RUN_AT_MOST} may be"
        );
    }
}
