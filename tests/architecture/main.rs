//! The shape of the source tree, as tests: who may name whom, which modules do no I/O, and what a
//! file may not contain. Reads text only; the compiler has no say in these rules.

#![expect(
    clippy::disallowed_methods,
    reason = "the bans are for the gateway; these tests read files as they are"
)]

#[cfg(test)]
mod layers;
#[cfg(test)]
mod scan;
#[cfg(test)]
mod tidy;

/// The files below `dir` (relative to the package) that `wanted` accepts, as paths relative to the
/// package with `/`, sorted. A directory that does not exist has none.
#[cfg(test)]
fn files_below(dir: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut open = vec![std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(dir)];
    let mut found = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if path.is_file() {
            let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
            let name = name.to_string_lossy().replace('\\', "/");
            if wanted(&name) {
                found.push(name);
            }
        }
    }
    found.sort();
    found
}

/// The text of a file of the package. Bytes that are not UTF-8 become replacement characters.
#[cfg(test)]
fn text(file: &str) -> String {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
}
