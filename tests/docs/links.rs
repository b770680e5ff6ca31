//! Links between pages, to headings and to files of the repository.

use std::path::{Component, Path, PathBuf};

use crate::page::{Page, root};

/// What the links of a page that lead nowhere are.
pub(crate) fn broken(page: &Page) -> Vec<String> {
    let folder = Path::new(&page.path)
        .parent()
        .unwrap_or_else(|| Path::new(""));
    found(page)
        .into_iter()
        .filter(|(_, target)| !target.contains("://") && !target.starts_with("mailto:"))
        .filter_map(|(line, target)| {
            let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() {
                PathBuf::from(&page.path)
            } else {
                plain(&folder.join(file))
            };
            let problem = if !root().join(&path).exists() {
                format!("there is no `{}`", path.display())
            } else if !heading.is_empty() && !headings(&path).iter().any(|one| one == heading) {
                format!("`{}` has no heading `#{heading}`", path.display())
            } else {
                return None;
            };
            Some(format!("{}:{line}: link `{target}`: {problem}", page.path))
        })
        .collect()
}

/// What the page links to, as written.
pub(crate) fn targets(page: &Page) -> Vec<String> {
    found(page).into_iter().map(|(_, target)| target).collect()
}

fn found(page: &Page) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in &page.prose {
        let mut rest = &*without_code(line);
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, after)) = after.split_once(')') else {
                break;
            };
            found.push((*number, target.to_owned()));
            rest = after;
        }
        for attribute in [" src=\"", " srcset=\""] {
            let target = line
                .split_once(attribute)
                .and_then(|(_, rest)| rest.split_once('"'));
            found.extend(target.map(|(target, _)| (*number, target.to_owned())));
        }
    }
    found
}

/// The line without what stands between backticks: `a[0](b)` is no link there.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("``")
}

/// The anchors of the headings of a page, as the forges make them.
fn headings(path: &Path) -> Vec<String> {
    let Some(path) = path.to_str().filter(|path| path.ends_with(".md")) else {
        return Vec::new();
    };
    Page::read(path)
        .prose
        .iter()
        .filter(|(_, line)| line.starts_with('#'))
        .map(|(_, line)| anchor(line.trim_start_matches('#').trim()))
        .collect()
}

fn anchor(heading: &str) -> String {
    heading
        .to_lowercase()
        .chars()
        .filter_map(|letter| match letter {
            ' ' => Some('-'),
            '-' | '_' => Some(letter),
            _ => letter.is_alphanumeric().then_some(letter),
        })
        .collect()
}

/// The path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

#[test]
fn anchors_are_those_of_the_forges() {
    assert_eq!(anchor("`smg top`, in short"), "smg-top-in-short");
    assert_eq!(
        plain(Path::new("docs/../README.md")),
        Path::new("README.md")
    );
}
