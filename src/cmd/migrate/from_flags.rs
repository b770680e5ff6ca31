//! A command line to a file.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::dialect::Dialect;
use super::document::{Document, Left};
use super::flags::{self, FlagError, Reading, implied, in_variable};
use super::hidden::Hidden;
use super::line::{self, LineError, Word};
use super::program::{self, Launch, LaunchError};
use crate::config::cli::absent::LATER;
use crate::config::cli::flag::{Kind, Target};
use crate::config::cli::overlay::overlay;
use crate::config::cli::setting::{self, Setting, VariableError};
use crate::config::cli::table::{self, FLAGS, PROBES, RUST_LOG};
use crate::config::diag::Place;
use crate::config::{
    self as config, Diagnostic, Environment, Given, Input, Loaded, Origin, Overlay, Secrets, load,
    overlaid,
};

/// Why a command line has no file.
#[derive(Debug, thiserror::Error)]
pub(super) enum FromFlagsError {
    /// The text is not a command line.
    #[error(transparent)]
    Line(#[from] LineError),
    /// It starts no gateway.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// A flag cannot be understood.
    #[error(transparent)]
    Flag(#[from] FlagError),
    /// A variable cannot be understood.
    #[error(transparent)]
    Variable(#[from] VariableError),
    /// A variable whose value only a shell could fill in.
    #[error("the value of `{0}` has a variable in it whose value is not known here; write it out")]
    Open(String),
    /// Flags that nothing is known about, where each must be known.
    #[error("{} not known", .0.join(", "))]
    Unknown(Vec<String>),
    /// The settings do not fit together.
    #[error("the flags do not fit together: {0}")]
    Unfit(String),
}

/// A command line as it is given.
#[derive(Debug)]
pub(super) enum Typed {
    /// Word by word.
    Words(Vec<String>),
    /// As a text that a shell would split.
    Text(String),
}

/// The file that a command line means.
///
/// # Errors
/// [`FromFlagsError`] for what cannot be understood; with `strict` also for flags that are not known.
pub(super) fn convert(
    typed: Typed,
    dialect: Option<Dialect>,
    strict: bool,
) -> Result<Document, FromFlagsError> {
    let commands = match typed {
        Typed::Words(words) => vec![line::words(words)],
        Typed::Text(text) => line::split(&text)?,
    };
    let mut launch = program::find(commands)?;
    launch.dialect = dialect.unwrap_or(launch.dialect);
    let mut hidden = Hidden::default();
    let Reading {
        settings,
        left,
        notes,
        unknown,
        engine,
    } = flags::read(&launch.flags, launch.dialect, launch.engines, &mut hidden)?;
    if strict && !unknown.is_empty() {
        return Err(FromFlagsError::Unknown(unknown));
    }
    let mut document = Document::default();
    document.left.extend(left);
    let mut all = variables(&launch, &mut hidden, &mut document)?;
    all.extend(settings);
    imply(&mut all);
    let (loaded, settings) = settle(all, &launch, &hidden, &mut document)?;
    fill(&mut document, &loaded, &settings, &launch);
    notes.into_iter().for_each(|note| document.note(note));
    differences(&mut document, &launch, &settings);
    if launch.engines {
        engines(&mut document, &engine);
    }
    heads(&mut document, &launch, &hidden);
    Ok(document)
}

/// The settings of the variables that stand before the program.
fn variables(
    launch: &Launch,
    hidden: &mut Hidden,
    document: &mut Document,
) -> Result<Vec<Setting>, FromFlagsError> {
    let mut values: BTreeMap<&str, &Word> = launch
        .variables
        .iter()
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    let read = loop {
        let read = setting::variables(&|name| values.get(name).map(|word| word.text.clone()));
        match read {
            Err(error) if flags::is_later(&error.source) => {
                document.leave(format!("`{}`", error.name), error.source.to_string());
                values.remove(error.name.as_str());
            }
            read => break read,
        }
    };
    // What stands for a variable of the shell is no value; that is the better reason.
    for flag in FLAGS.iter().filter(|flag| !flag.kind.is_secret()) {
        for name in std::iter::once(flag.variable()).chain(flag.legacy.map(str::to_owned)) {
            if values.get(name.as_str()).is_some_and(|word| word.open) {
                return Err(FromFlagsError::Open(name));
            }
        }
    }
    let read = read?;
    for notice in &read.notices {
        document.leave("a variable", notice.to_string());
    }
    if read.filter.is_some() {
        document.leave(
            format!("`{RUST_LOG}`"),
            "an expression stays in the environment of the gateway; `logging.level` takes a level",
        );
    }
    for name in values.keys().filter(|name| name.starts_with("SMG_")) {
        let known = FLAGS.iter().any(|flag| flag.variable() == *name)
            || LATER
                .iter()
                .any(|later| later.variables().any(|v| v == *name));
        if !known {
            document.leave(format!("`{name}`"), "no setting has this variable");
        }
    }
    let mut settings = read.settings;
    for setting in &mut settings {
        let list = matches!(setting.flag.kind, Kind::TenantKeys | Kind::OperatorKeys);
        let (true, Given::Env(name)) = (list, &setting.given) else {
            continue;
        };
        let text = values
            .get(name.as_str())
            .map_or("", |word| word.text.as_str());
        let parts = text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty());
        let wrong = |source| VariableError {
            name: name.clone(),
            value: None,
            source,
        };
        setting.values = parts
            .map(|part| hidden.value(setting.flag, part).map_err(wrong))
            .collect::<Result<_, _>>()?;
    }
    Ok(settings)
}

/// What goes with other settings: a worker that is no engine of ours is not asked for its health,
/// and gets what its callers show.
fn imply(settings: &mut Vec<Setting>) {
    let external = settings.iter().find(|setting| {
        setting.flag.name == "backend"
            && setting.values.last().and_then(Value::as_str) == Some("external")
            && matches!(&setting.given, Given::Flag(text) if text.contains("openai"))
    });
    let Some(given) = external.map(|setting| setting.given.clone()) else {
        return;
    };
    let probed = settings
        .iter()
        .any(|setting| setting.flag.name.starts_with("health-check-"));
    if !probed && let Some(flag) = table::find("disable-health-check") {
        settings.push(implied(flag, &given, true));
    }
}

/// Loads the settings, without those that the gateway would refuse, which are told.
fn settle(
    mut settings: Vec<Setting>,
    launch: &Launch,
    hidden: &Hidden,
    document: &mut Document,
) -> Result<(Loaded, Vec<Setting>), FromFlagsError> {
    let mark = launch.dialect.default_mark();
    loop {
        let loaded = load(&Input {
            file: None,
            overlay: lay(&settings, launch, hidden),
            environment: Environment::from_iter::<[(String, String); 0]>([]),
            secrets: Secrets::Note,
        });
        let named = |diagnostic: &Diagnostic| match &diagnostic.primary {
            Some(Place::Flag(name) | Place::Environment(name)) if *name != mark => {
                Some(name.clone())
            }
            _ => None,
        };
        let errors: Vec<&Diagnostic> = loaded.diagnostics.iter().filter(|d| d.is_error()).collect();
        let Some(first) = errors.first() else {
            for idle in loaded.diagnostics.iter().filter(|d| d.slug == "no-effect") {
                if let Some(name) = named(idle) {
                    let reason = idle.message.rsplit_once(": ").map(|(_, reason)| reason);
                    let why = format!("has no effect: {}", reason.unwrap_or(&idle.message));
                    document.leave(format!("`{name}`"), why);
                }
            }
            return Ok((loaded, settings));
        };
        let before = settings.len();
        if let Some(name) = errors.iter().find_map(|error| named(error)) {
            settings.retain(|setting| given(setting) != name);
            let message = errors
                .iter()
                .find(|error| named(error).as_ref() == Some(&name))
                .map_or("", |error| error.message.as_str());
            document.leave(format!("`{name}`"), format!("is left out: {message}"));
        }
        if settings.len() == before {
            return Err(FromFlagsError::Unfit(first.message.clone()));
        }
    }
}

fn given(setting: &Setting) -> &str {
    let (Given::Env(name) | Given::Flag(name)) = &setting.given;
    name
}

/// The settings as an overlay, over the defaults of the dialect.
fn lay(settings: &[Setting], launch: &Launch, hidden: &Hidden) -> Overlay {
    let mut all = launch.dialect.defaults(launch.engines);
    all.append(overlay(settings));
    for setting in settings {
        if setting.flag.name == "backend"
            && matches!(&setting.given, Given::Flag(text) if text.contains("openai"))
        {
            let key = "forward_authorization".to_owned();
            let target = config::Target::Pool(table::DEFAULT_POOL.to_owned(), key);
            all.set(target, true, setting.given.clone());
        }
        if setting.flag.kind != Kind::TenantKeys {
            continue;
        }
        let mut keys: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
        for (tenant, name) in &hidden.tenants {
            keys.entry(tenant).or_default().push(in_variable(name));
        }
        for (tenant, keys) in keys {
            let target = config::Target::Tenant(tenant.to_owned(), "keys".to_owned());
            all.set(target, Value::Array(keys), setting.given.clone());
        }
    }
    all
}

/// Puts into the document what flags and defaults set, and where each key comes from.
fn fill(document: &mut Document, loaded: &Loaded, settings: &[Setting], launch: &Launch) {
    let (table, origins) = overlaid(loaded);
    for (path, origin) in origins {
        if let Origin::Flag(text) | Origin::Environment(text) = origin
            && is_told(&table, &path)
        {
            document.comments.insert(path, text);
        }
    }
    // A comment behind a header need not stand behind its keys, too.
    let comments = document.comments.clone();
    document.comments.retain(|path, text| {
        let header = path
            .rsplit_once('.')
            .and_then(|(parent, _)| comments.get(parent));
        header.is_none_or(|header| header != text || path.contains(".policy."))
    });
    // The parts of an address come from two flags.
    let listeners = table.get("listeners").and_then(Value::as_array);
    for (i, listener) in listeners.into_iter().flatten().enumerate() {
        let path = format!("listeners[{i}].address");
        let Some(name) = listener.get("name").and_then(Value::as_str) else {
            continue;
        };
        if !document.comments.contains_key(&path) {
            continue;
        }
        let of = |setting: &&Setting| match setting.flag.target {
            Target::Host(of) | Target::Port(of) => of == name,
            Target::Probes => name == PROBES,
            _ => false,
        };
        let mut texts: Vec<String> = Vec::new();
        let said =
            |setting: &Setting| matches!(setting.flag.target, Target::Host(of) if of == name);
        if launch.dialect.hosts(launch.engines).contains(&name) && !settings.iter().any(said) {
            texts.push(format!("{} for the host", launch.dialect.default_mark()));
        }
        texts.extend(settings.iter().filter(of).map(|s| given(s).to_owned()));
        if !texts.is_empty() {
            document.comments.insert(path, texts.join(", "));
        }
    }
    document.table = table;
}

/// Whether the origin of a path is worth a comment: that of a key, of the choice of a policy, or of
/// an element of a list. A table is there for its keys.
fn is_told(table: &Table, path: &str) -> bool {
    let at = |parent: &Table, part: &str| -> Option<(Value, bool)> {
        let (key, index) = match part.strip_suffix(']').and_then(|part| part.split_once('[')) {
            Some((key, index)) => (key, index.parse::<usize>().ok()),
            None => (part, None),
        };
        let value = parent.get(key)?;
        match index {
            None => Some((value.clone(), false)),
            Some(index) => Some((value.get(index)?.clone(), true)),
        }
    };
    let mut value = Value::Table(table.clone());
    let mut element = false;
    for part in path.split('.') {
        let found = value.as_table().and_then(|table| at(table, part));
        let Some((inner, is_element)) = found else {
            return true;
        };
        (value, element) = (inner, is_element);
    }
    let source = value.get("env").is_some_and(Value::is_str);
    !value.is_table() || source || element || path.ends_with("policy")
}

/// What is different here whatever the flags say.
fn differences(document: &mut Document, launch: &Launch, settings: &[Setting]) {
    let has = |name: &str| settings.iter().any(|setting| setting.flag.name == name);
    if launch.dialect != Dialect::Smg && has("api-key") {
        document.note(
            "`auth.api_key` is what clients must show. It is never sent to workers: those that want \
             a key get it from `pools[].api_key`",
        );
    }
    if launch.dialect == Dialect::VllmRouter && has("worker-api-key") {
        document.note(
            "`--api-key` of that program is what workers are shown. What clients must show is \
             `auth.api_key`, or `[[auth.tenants]]`",
        );
    }
    let tree = document.comments.iter().any(|(path, text)| {
        path.ends_with(".cache_aware.algorithm") && *text == launch.dialect.default_mark()
    });
    if tree {
        document.note(
            "`algorithm = \"tree\"` is how the other program chooses. Without that line, and without \
             `cache_threshold` and `balance_*`, cached prompts are weighed against load by a score",
        );
    }
    let relative = settings.iter().any(|setting| {
        matches!(setting.flag.kind, Kind::Path | Kind::Paths)
            && (setting.values.iter().filter_map(Value::as_str)).any(|path| !path.starts_with('/'))
    });
    if relative {
        document
            .note("relative paths are relative to the file, not to where the gateway is started");
    }
}

/// What is to be done about engines that are not started any more.
fn engines(document: &mut Document, flags: &[String]) {
    document.left.push(Left {
        what: "engines".to_owned(),
        why: "the gateway starts none; start each by itself and list its URL in \
              `pools[].workers`, or add it with `POST /workers`"
            .to_owned(),
    });
    if !flags.is_empty() {
        let flags: Vec<String> = flags.iter().map(|flag| format!("`{flag}`")).collect();
        document.leave(flags.join(", "), "of the engine: give them to the engine");
    }
}

fn heads(document: &mut Document, launch: &Launch, hidden: &Hidden) {
    let title = launch.dialect.title();
    document.head.push(match launch.dialect {
        Dialect::Smg => "Made from a command line by `smg config from-flags`.".to_owned(),
        _ => format!("Made from a command line of {title} by `smg config from-flags`."),
    });
    document.head.extend(needed(hidden));
}

/// The line that says which variables the gateway needs.
pub(super) fn needed(hidden: &Hidden) -> Option<String> {
    let names: Vec<String> = hidden
        .needed
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    (!names.is_empty()).then(|| {
        format!(
            "Secrets were left out: the gateway reads them from its environment, {}. A file \
             or a systemd credential will do as well.",
            names.join(", ")
        )
    })
}
