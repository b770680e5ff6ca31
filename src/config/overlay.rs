//! The overlay: what flags and variables say over the file.
//!
//! An overlay is a list of keys with values. One that is set here replaces what the file has, a
//! list included. Flags come before variables, whichever was added first.

use super::choice;
use super::diag::Diagnostic;
use super::origin::Origins;
use super::spec::{ListenAddress, Listener, Policy, PolicyName};
use super::tree::{Mark, Node, Value};

/// Who set a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Given {
    /// An environment variable, by its name.
    Env(String),
    /// A flag, with its dashes.
    Flag(String),
}

/// Which key is set.
///
/// Keys below a table are dotted (`limits.header_timeout`). An element of `listeners`, `pools`,
/// `models` or `auth.tenants` is meant by its name; one that the file does not define is created: `main` and
/// `metrics` as they are without a file, another listener as one for `probes` on the host of
/// `main`, a pool, a model or a tenant with nothing but its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A key that is in no list, such as `server.request_timeout`.
    Key(String),
    /// A key of the listener with this name.
    Listener(String, String),
    /// The host in the address of the listener with this name; the port stays.
    ListenerHost(String),
    /// The port in the address of the listener with this name; the host stays.
    ListenerPort(String),
    /// A key of the pool with this name.
    Pool(String, String),
    /// A key of the model with this name.
    Model(String, String),
    /// A key of the tenant with this name.
    Tenant(String, String),
    /// Whether the pool with this name has legs: with `true` those that it lacks are created, with
    /// `false` nothing happens.
    Legs(String),
    /// The policy of every model that names none of its own. Options that the file has for the
    /// same policy stay.
    Policy,
    /// The policy of a leg, `prefill` or `decode`, of the pool with this name, if it has that leg.
    LegPolicy(String, String),
    /// An option of the policies of these kinds that are in force: that of every model that names
    /// none, and those of the legs of the pool with this name.
    PolicyOption {
        /// The pool.
        pool: String,
        /// The policies that have the option.
        kinds: Vec<PolicyName>,
        /// The key in the table of the policy.
        option: String,
    },
}

/// What flags and variables say over the file.
#[derive(Clone, Debug, Default)]
pub struct Overlay {
    entries: Vec<(Given, Target, toml::Value)>,
}

impl Overlay {
    /// Sets a key. Values are those of the file: a duration is a string with its unit, the host of
    /// a listener a string, its port an integer. A later call for the same key wins over an
    /// earlier one of the same kind.
    pub fn set(&mut self, target: Target, value: impl Into<toml::Value>, given: Given) {
        self.entries.push((given, target, value.into()));
    }

    /// Adds what another one sets, as if it had been set later.
    pub fn append(&mut self, other: Self) {
        self.entries.extend(other.entries);
    }

    /// Whether nothing is set.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The text that stands for the overlay in the hash of a configuration.
    pub(crate) fn fingerprint(&self) -> String {
        self.in_order()
            .map(|(_, target, value)| format!("{target:?}={value}\n"))
            .collect()
    }

    /// Lays it over the tree. The names of lists that are not there yet are created.
    pub(crate) fn apply(&self, root: &mut Node, origins: &Origins, out: &mut Vec<Diagnostic>) {
        for (given, target, value) in self.in_order() {
            let mark = given.mark();
            match target {
                Target::Key(key) => put(root, key, node(value, &mark)),
                Target::Listener(name, key) => {
                    with_element(root, "listeners", name, &mark, |element| {
                        put(element, key, node(value, &mark));
                    });
                }
                Target::Pool(name, key) => with_element(root, "pools", name, &mark, |element| {
                    put(element, key, node(value, &mark));
                }),
                Target::Model(name, key) => with_element(root, "models", name, &mark, |element| {
                    put(element, key, node(value, &mark));
                }),
                Target::Tenant(name, key) => {
                    if root.get("auth").is_none() {
                        root.set("auth", Node::table(mark.clone()));
                    }
                    if let Some(auth) = root.get_mut("auth") {
                        with_element(auth, "tenants", name, &mark, |element| {
                            put(element, key, node(value, &mark));
                        });
                    }
                }
                Target::Legs(pool) if value.as_bool() == Some(true) => {
                    with_element(root, "pools", pool, &mark, |pool| {
                        for leg in LEGS {
                            if pool.get(leg).is_none() {
                                let nobody = Node::new(Value::Array(Vec::new()), mark.clone());
                                let mut table = Node::table(mark.clone());
                                table.set("workers", nobody);
                                pool.set(leg, table);
                            }
                        }
                    });
                }
                Target::Legs(_) => {}
                Target::Policy => {
                    let word = value.as_str().unwrap_or_default();
                    if root.get("routing").is_none() {
                        root.set("routing", Node::table(mark.clone()));
                    }
                    if let Some(routing) = root.get_mut("routing") {
                        choice::set_name(routing, "policy", word, &mark);
                    }
                }
                Target::LegPolicy(pool, leg) => {
                    let word = value.as_str().unwrap_or_default();
                    match element_mut(root, "pools", pool).and_then(|pool| pool.get_mut(leg)) {
                        Some(leg) => choice::set_name(leg, "policy", word, &mark),
                        None => out.push(idle(
                            given,
                            &format!("pool `{pool}` has no `{leg}` leg"),
                            origins,
                        )),
                    }
                }
                Target::PolicyOption {
                    pool,
                    kinds,
                    option,
                } => {
                    let value = node(value, &mark);
                    if !set_option(root, pool, kinds, option, &value) {
                        let kinds: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
                        let reason = format!("no policy in force is `{}`", kinds.join("` or `"));
                        out.push(idle(given, &reason, origins));
                    }
                }
                Target::ListenerHost(name) | Target::ListenerPort(name) => {
                    let part = match target {
                        Target::ListenerHost(_) => Part::Host(value.as_str().unwrap_or_default()),
                        _ => Part::Port(value.as_integer().unwrap_or(-1)),
                    };
                    with_element(root, "listeners", name, &mark, |element| {
                        out.extend(readdress(element, name, part, &mark, origins));
                    });
                }
            }
        }
    }

    /// In the order of [`Target::turn`], and of one turn variables before flags.
    fn in_order(&self) -> impl Iterator<Item = &(Given, Target, toml::Value)> {
        let mut entries: Vec<_> = self.entries.iter().collect();
        entries.sort_by_key(|(given, target, _)| (target.turn(), matches!(given, Given::Flag(_))));
        entries.into_iter()
    }
}

impl Target {
    /// When it is laid over, as some depend on others: a listener that is created takes its host
    /// from `main`, a leg must be there to have a policy, a policy to have an option.
    fn turn(&self) -> u8 {
        match self {
            Self::Listener(name, _) | Self::ListenerHost(name) | Self::ListenerPort(name) => {
                u8::from(name != "main" && name != "metrics")
            }
            Self::Key(_)
            | Self::Pool(..)
            | Self::Model(..)
            | Self::Tenant(..)
            | Self::Legs(_)
            | Self::Policy => 0,
            Self::LegPolicy(..) => 1,
            Self::PolicyOption { .. } => 2,
        }
    }
}

impl Given {
    fn mark(&self) -> Mark {
        match self {
            Self::Env(name) => Mark::Env(name.clone()),
            Self::Flag(name) => Mark::Flag(name.clone()),
        }
    }
}

const LEGS: [&str; 2] = ["prefill", "decode"];

/// Sets an option of the default policy and of those of the legs of `pool`, where they are of one
/// of the `kinds`. Says whether any is.
fn set_option(
    root: &mut Node,
    pool: &str,
    kinds: &[PolicyName],
    option: &str,
    value: &Node,
) -> bool {
    let default = Policy::default().name();
    if root.get("routing").is_none() {
        root.set("routing", Node::table(Mark::Default));
    }
    let mut set = root.get_mut("routing").is_some_and(|routing| {
        choice::set_option(
            routing,
            "policy",
            Some(default),
            kinds,
            (option, value.clone()),
        )
    });
    for leg in LEGS {
        let leg = element_mut(root, "pools", pool).and_then(|pool| pool.get_mut(leg));
        if let Some(leg) = leg {
            // A leg without a policy of its own has the default one, whose turn it was already.
            set |= choice::set_option(leg, "policy", None, kinds, (option, value.clone()));
        }
    }
    set
}

/// A flag or variable that changes nothing.
fn idle(given: &Given, reason: &str, origins: &Origins) -> Diagnostic {
    let (Given::Env(name) | Given::Flag(name)) = given;
    Diagnostic::warning("no-effect", format!("`{name}` has no effect: {reason}"))
        .at(origins.place_of(&given.mark()))
}

/// The element of a list with this name.
fn element_mut<'a>(root: &'a mut Node, list: &str, name: &str) -> Option<&'a mut Node> {
    let Value::Array(nodes) = &mut root.get_mut(list)?.value else {
        return None;
    };
    nodes
        .iter_mut()
        .find(|node| node.get("name").and_then(Node::as_str) == Some(name))
}

/// Adds what is there without being written: the two listeners and the pool `default`.
pub(crate) fn add_defaults(root: &mut Node) {
    let missing = |root: &Node, key: &str| match root.entry(key) {
        None => true,
        Some(entry) => matches!(&entry.node.value, Value::Array(nodes) if nodes.is_empty()),
    };
    if missing(root, "listeners") {
        let listeners = [Listener::main(), Listener::metrics()];
        let nodes = listeners
            .iter()
            .map(|listener| listener_node(listener, &Mark::Default));
        root.set(
            "listeners",
            Node::new(Value::Array(nodes.collect()), Mark::Default),
        );
    }
    if missing(root, "pools") {
        let pool = named("default", &Mark::Default);
        root.set("pools", Node::new(Value::Array(vec![pool]), Mark::Default));
    }
}

#[derive(Clone, Copy)]
enum Part<'a> {
    Host(&'a str),
    Port(i64),
}

fn readdress(
    listener: &mut Node,
    name: &str,
    part: Part<'_>,
    mark: &Mark,
    origins: &Origins,
) -> Option<Diagnostic> {
    let present = listener.get("address")?;
    // An address that is none is reported when the tree is read.
    let address: ListenAddress = present.as_str()?.parse().ok()?;
    let (host, port) = match &address {
        ListenAddress::Ip(address) => (address.ip().to_string(), address.port()),
        ListenAddress::Host { host, port } => (host.clone(), *port),
        ListenAddress::Unix(_) | ListenAddress::Systemd(_) => {
            let kind = match address {
                ListenAddress::Unix(_) => "a unix socket",
                _ => "a socket of the service manager",
            };
            let message = format!("listener `{name}` is {kind}, which has no host and no port");
            return Some(
                Diagnostic::error("address-part", message)
                    .at(origins.place_of(mark))
                    .beside(
                        origins.place_of(&present.mark),
                        "the address that the file gives it",
                    ),
            );
        }
    };
    let changed = match part {
        Part::Host(host) => ListenAddress::from_parts(host, port).map_err(|e| e.to_string()),
        Part::Port(port) => u16::try_from(port)
            .map_err(|_| "a port is from 0 to 65535".to_owned())
            .and_then(|port| ListenAddress::from_parts(&host, port).map_err(|e| e.to_string())),
    };
    match changed {
        Ok(address) => {
            put(
                listener,
                "address",
                Node::new(Value::Str(address.to_string()), mark.clone()),
            );
            None
        }
        Err(message) => {
            Some(Diagnostic::error("invalid-value", message).at(origins.place_of(mark)))
        }
    }
}

/// Hands the element with this name to `act`, creating it if there is none. Where the file has
/// something that is no list, nothing happens: that is reported when the tree is read.
fn with_element(root: &mut Node, list: &str, name: &str, mark: &Mark, act: impl FnOnce(&mut Node)) {
    if root.get(list).is_none() {
        root.set(list, Node::new(Value::Array(Vec::new()), mark.clone()));
    }
    let template = match (list, name) {
        ("listeners", "main") => listener_node(&Listener::main(), &Mark::Default),
        ("listeners", "metrics") => listener_node(&Listener::metrics(), &Mark::Default),
        ("listeners", _) => probes_node(root, name),
        _ => named(name, &Mark::Default),
    };
    let Some(Value::Array(nodes)) = root.get_mut(list).map(|node| &mut node.value) else {
        return;
    };
    let is_it = |node: &Node| node.get("name").and_then(Node::as_str) == Some(name);
    let at = nodes.iter().position(is_it).unwrap_or_else(|| {
        nodes.push(template);
        nodes.len() - 1
    });
    if let Some(element) = nodes.get_mut(at) {
        act(element);
    }
}

fn named(name: &str, mark: &Mark) -> Node {
    let mut node = Node::table(mark.clone());
    node.set("name", Node::new(Value::Str(name.to_owned()), mark.clone()));
    node
}

fn listener_node(listener: &Listener, mark: &Mark) -> Node {
    let mut node = named(&listener.name, mark);
    node.set(
        "address",
        Node::new(Value::Str(listener.address.to_string()), mark.clone()),
    );
    let serve = listener
        .serve
        .iter()
        .map(|s| Node::new(Value::Str(s.to_string()), mark.clone()))
        .collect();
    node.set("serve", Node::new(Value::Array(serve), mark.clone()));
    node
}

/// A listener for probes, on any free port of the host of `main`.
fn probes_node(root: &Node, name: &str) -> Node {
    let main = root
        .get("listeners")
        .into_iter()
        .flat_map(Node::elements)
        .find_map(|node| {
            (node.get("name")?.as_str()? == "main").then(|| node.get("address")?.as_str())?
        });
    let mut address = Listener::main().address;
    match main.and_then(|text| text.parse().ok()) {
        Some(ListenAddress::Ip(mut main)) => {
            main.set_port(0);
            address = ListenAddress::Ip(main);
        }
        Some(ListenAddress::Host { host, .. }) => address = ListenAddress::Host { host, port: 0 },
        Some(ListenAddress::Unix(_) | ListenAddress::Systemd(_)) | None => {}
    }
    let listener = Listener {
        name: name.to_owned(),
        address,
        serve: vec![super::spec::Serve::Probes],
        ..Listener::main()
    };
    listener_node(&listener, &Mark::Default)
}

/// Sets a dotted key. Where something that is no table is in the way, nothing happens: that is
/// reported when the tree is read.
fn put(table: &mut Node, key: &str, value: Node) {
    if !matches!(table.value, Value::Table(_)) {
        return;
    }
    match key.split_once('.') {
        None => {
            table.set(key, value);
        }
        Some((first, rest)) => {
            if table.get(first).is_none() {
                table.set(first, Node::table(value.mark.clone()));
            }
            if let Some(inner) = table.get_mut(first) {
                put(inner, rest, value);
            }
        }
    }
}

fn node(value: &toml::Value, mark: &Mark) -> Node {
    let value = match value {
        toml::Value::String(text) => Value::Str(text.clone()),
        toml::Value::Integer(number) => Value::Int(*number),
        toml::Value::Float(number) => Value::Float(*number),
        toml::Value::Boolean(value) => Value::Bool(*value),
        toml::Value::Datetime(date) => Value::Date(date.to_string()),
        toml::Value::Array(items) => {
            Value::Array(items.iter().map(|item| node(item, mark)).collect())
        }
        toml::Value::Table(table) => {
            let mut out = Node::table(mark.clone());
            for (key, value) in table {
                out.set(key, node(value, mark));
            }
            return out;
        }
    };
    Node::new(value, mark.clone())
}
