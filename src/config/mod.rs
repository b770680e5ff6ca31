//! Text to `Spec`: files, includes, overlays, positions, diagnostics, schema.
//!
//! [`load`] reads a file with what it includes into one tree, expands variables, lays flags and
//! variables over it, reads the tree into a [`Spec`], resolves secrets and checks the whole. It
//! reports everything it finds, each with its place. It reads the files it is given, and neither
//! binds nor dials. `cmd` and the reload call it; what it returns is all that others need.

mod check;
mod choice;
pub mod cli;
pub mod diag;
mod dump;
mod environment;
mod expand;
mod include;
mod origin;
mod overlaid;
mod overlay;
mod read;
pub mod reload;
mod schema;
mod secrets;
mod source;
pub mod spec;
mod tree;

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::path::PathBuf;

use sha2::Digest;

pub use diag::{Diagnostic, Format, Severity, render};
pub use dump::{DumpError, render_effective};
pub use environment::Environment;
pub use origin::{Origin, Origins};
pub use overlaid::overlaid;
pub use overlay::{Given, Overlay, Target};
pub use schema::json_schema;
pub use spec::Spec;

pub(crate) use tree::path::is_bare;

use include::Reading;
use tree::{Mark, Node, Value};

/// What a configuration is loaded from.
#[derive(Clone, Debug, Default)]
pub struct Input {
    /// The file; `None` for defaults and overlay alone.
    pub file: Option<PathBuf>,
    /// What flags and variables say over it.
    pub overlay: Overlay,
    /// Where `${VAR}` and `{ env = … }` are looked up.
    pub environment: Environment,
    /// What a secret means that is not there.
    pub secrets: Secrets,
}

/// What a secret, a variable or a folder means that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Secrets {
    /// An error.
    #[default]
    Require,
    /// A note: the configuration is checked away from where it will run.
    Note,
}

/// What loading found.
#[derive(Debug)]
pub struct Loaded {
    /// The configuration; `None` if there is an error among the diagnostics.
    pub spec: Option<Spec>,
    /// Where each value comes from.
    pub origins: Origins,
    /// Everything that is wrong or may be: errors first, each kind in the order of the files.
    pub diagnostics: Vec<Diagnostic>,
    /// Every file that was read or should have been, secret files included.
    pub files: Vec<PathBuf>,
    /// The folders in which a change can mean another configuration: those of the files, and those
    /// that globs look into.
    pub directories: Vec<PathBuf>,
    /// Hash of the text of all files and of the overlay, in hex. What secrets hold is not in it;
    /// compare the `spec` for that.
    pub sha256: String,
}

impl Loaded {
    /// Whether there is an error.
    pub fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(Diagnostic::is_error)
    }
}

/// Loads a configuration.
pub fn load(input: &Input) -> Loaded {
    let mut reading = Reading::new(&input.environment, input.secrets);
    let root = match &input.file {
        Some(file) => reading.read(file, None),
        None => {
            let mut root = Node::table(Mark::Default);
            root.set("version", Node::new(Value::Int(1), Mark::Default));
            Some(root)
        }
    };
    reading.hash.update(input.overlay.fingerprint().as_bytes());
    let sha256 = hex(&reading.hash.clone().finalize());
    let Reading {
        mut origins,
        mut diagnostics,
        mut files,
        mut directories,
        ..
    } = reading;
    // Until now everything that was found is about text that could not be read.
    origins.incomplete = diagnostics.iter().any(Diagnostic::is_error);

    let mut spec = None;
    if let Some(mut root) = root {
        choice::spell(&mut root);
        overlay::add_defaults(&mut root);
        let level = tree::path::KeyPath::parse("logging.level");
        let written = root.find(&level).map(|node| node.value.clone());
        input.overlay.apply(&mut root, &origins, &mut diagnostics);
        let now = root.find(&level).map(|node| &node.value);
        origins.level_is_masked = written.is_some() && written.as_ref() != now;
        add_folders(&mut root, &input.environment);
        read::unite_health(&mut root, &origins, &mut diagnostics);
        spec = read::read(&mut root, &origins, &mut diagnostics);
        origins.root = root;
        if let Some(spec) = &mut spec {
            let mut resolver = secrets::Resolver::new(input, &origins);
            resolver.resolve(spec);
            directories.extend(
                resolver
                    .files
                    .iter()
                    .filter_map(|f| Some(f.parent()?.to_owned())),
            );
            files.append(&mut resolver.files);
            let mut checked = resolver.diagnostics;
            checked.extend(check::check(spec, &origins, input.secrets));
            diagnostics.extend(
                checked
                    .into_iter()
                    .filter(|found| origins.is_founded(found)),
            );
        }
    }
    sort(&mut diagnostics, &origins);
    if diagnostics.iter().any(Diagnostic::is_error) {
        spec = None;
    }
    let directories = directories.into_iter().collect();
    let mut named = BTreeSet::new();
    files.retain(|file| named.insert(file.clone()));
    Loaded {
        spec,
        origins,
        diagnostics,
        files,
        directories,
        sha256,
    }
}

/// The control socket and the state stand in the folders that systemd made, where it did and no key
/// says else.
fn add_folders(root: &mut Node, environment: &Environment) {
    for (variable, key, file) in [
        ("RUNTIME_DIRECTORY", "control_socket", "/control.sock"),
        ("STATE_DIRECTORY", "state_dir", ""),
    ] {
        let folder = environment.get(variable);
        let first = folder
            .as_deref()
            .and_then(|folders| folders.split(':').next());
        let Some(folder) = first.filter(|folder| !folder.is_empty()) else {
            continue;
        };
        let mark = Mark::Env(variable.to_owned());
        if root.get("server").is_none() {
            root.set("server", Node::table(mark.clone()));
        }
        let Some(server) = root.get_mut("server") else {
            continue;
        };
        if matches!(server.value, Value::Table(_)) && server.entry(key).is_none() {
            let path = format!("{folder}{file}");
            server.set(key, Node::new(Value::Str(path), mark));
        }
    }
}

/// Errors before warnings before notes; each in the order of the files, then of their lines.
fn sort(diagnostics: &mut [Diagnostic], origins: &Origins) {
    let order = |file: &str| {
        origins
            .sources
            .iter()
            .position(|source| source.path.display().to_string() == file)
    };
    diagnostics.sort_by_cached_key(|diagnostic| {
        let place = match &diagnostic.primary {
            Some(diag::Place::File(spot)) => Some((order(&spot.file), spot.line, spot.column)),
            _ => None,
        };
        // What has no line comes last.
        (diagnostic.severity, Reverse(place.is_some()), place)
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
