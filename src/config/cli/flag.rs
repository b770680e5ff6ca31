//! What a flag is: its names, the form of its value and the key it sets.

use super::table::{DEFAULT_POOL, MAIN, PROBES};
use crate::config::spec::{AssignmentMode, LogLevel, PolicyName, Runtime};

/// A flag of the command line, and the variables that mean the same.
#[derive(Debug, PartialEq, Eq)]
pub struct Flag {
    /// The name, without the dashes in front.
    pub name: &'static str,
    /// Other names that mean the same; they have no variable.
    pub aliases: &'static [&'static str],
    /// The short form.
    pub short: Option<char>,
    /// The form of the value.
    pub kind: Kind,
    /// What the value sets.
    pub target: Target,
    /// A variable of other tools that is honoured after the flag's own.
    pub legacy: Option<&'static str>,
    /// The heading under which the help lists it.
    pub group: Group,
    /// Whether the short help lists it too.
    pub common: bool,
    /// What it does, in one line.
    pub help: &'static str,
}

impl Flag {
    /// The flag as it is typed.
    pub fn dashed(&self) -> String {
        format!("--{}", self.name)
    }

    /// The variable that means the same.
    pub fn variable(&self) -> String {
        variable(self.name)
    }
}

/// The variable of the flag called `name`.
pub(crate) fn variable(name: &str) -> String {
    format!("SMG_{}", name.replace('-', "_").to_ascii_uppercase())
}

/// Headings of the help, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Sockets and the process.
    Server,
    /// Who does the work.
    Workers,
    /// How a worker is chosen.
    Routing,
    /// What happens under trouble.
    Reliability,
    /// Who may come in, and how nobody else listens.
    Security,
    /// What can be seen.
    Observability,
}

impl Group {
    /// Every heading, in order.
    pub const ALL: [Self; 6] = [
        Self::Server,
        Self::Workers,
        Self::Routing,
        Self::Reliability,
        Self::Security,
        Self::Observability,
    ];

    /// The heading as it is printed.
    pub const fn heading(self) -> &'static str {
        match self {
            Self::Server => "Server",
            Self::Workers => "Workers",
            Self::Routing => "Routing",
            Self::Reliability => "Reliability",
            Self::Security => "Security",
            Self::Observability => "Observability",
        }
    }
}

/// The form of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No value needed: the flag alone means yes.
    Switch,
    /// The path of a file or directory.
    Path,
    /// An IP address or a host name.
    Host,
    /// A port; 0 takes any free one.
    Port,
    /// A port that must be known beforehand.
    FixedPort,
    /// A whole number that is not negative.
    Number,
    /// A whole number that is not negative and may be large.
    Long,
    /// A whole number of at least 1, or -1 for any number.
    Limit,
    /// A number with a fraction.
    Float,
    /// A duration; bare numbers are seconds.
    Seconds,
    /// A duration; bare numbers are milliseconds.
    Millis,
    /// A size; bare numbers are bytes.
    Size,
    /// A number of threads, or `auto`.
    Threads,
    /// The path of a URL.
    UrlPath,
    /// A value that is not shown.
    Secret,
    /// The name of a policy.
    Policy,
    /// The name of a policy that can choose among workers that generate.
    DecodePolicy,
    /// A way to place keys.
    AssignmentMode,
    /// The name of an engine.
    Runtime,
    /// The importance of a log message.
    LogLevel,
    /// A list of worker URLs.
    Urls,
    /// A worker URL with an optional bootstrap port, which repeats.
    Prefill,
    /// A list of origins.
    Origins,
    /// A list of header names.
    Headers,
    /// A list of numbers.
    Floats,
    /// A list of `ALIAS=NAME`.
    Aliases,
    /// A text that is not empty.
    Text,
    /// An http or https URL.
    Url,
    /// A list of paths of files.
    Paths,
    /// `TENANT:KEY`, which repeats and is not shown.
    TenantKeys,
    /// A list of `ID:NAME:ROLE:KEY`, which is not shown.
    OperatorKeys,
    /// A list of `WORD=ROLE`.
    Roles,
}

impl Kind {
    /// Whether the flag takes several values and repeats.
    pub const fn is_list(self) -> bool {
        matches!(
            self,
            Self::Urls
                | Self::Prefill
                | Self::Origins
                | Self::Headers
                | Self::Floats
                | Self::Aliases
                | Self::Paths
                | Self::TenantKeys
                | Self::OperatorKeys
                | Self::Roles
        )
    }

    /// Whether one occurrence of the flag takes several values.
    pub const fn is_many(self) -> bool {
        self.is_list() && !matches!(self, Self::Prefill | Self::TenantKeys)
    }

    /// Whether its values must not be shown.
    pub const fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::TenantKeys | Self::OperatorKeys)
    }

    /// The words that the flag takes, where there are only some.
    pub const fn words(self) -> Option<&'static [&'static str]> {
        Some(match self {
            Self::Policy => PolicyName::WORDS,
            Self::DecodePolicy => DECODE_POLICIES,
            Self::AssignmentMode => AssignmentMode::WORDS,
            Self::Runtime => Runtime::WORDS,
            Self::LogLevel => LogLevel::WORDS,
            Self::Switch
            | Self::Path
            | Self::Host
            | Self::Port
            | Self::FixedPort
            | Self::Number
            | Self::Long
            | Self::Limit
            | Self::Float
            | Self::Seconds
            | Self::Millis
            | Self::Size
            | Self::Threads
            | Self::UrlPath
            | Self::Secret
            | Self::Urls
            | Self::Prefill
            | Self::Origins
            | Self::Headers
            | Self::Floats
            | Self::Aliases
            | Self::Text
            | Self::Url
            | Self::Paths
            | Self::TenantKeys
            | Self::OperatorKeys
            | Self::Roles => return None,
        })
    }

    /// What stands for the value in the help.
    pub const fn placeholder(self) -> &'static str {
        match self {
            Self::Switch => "BOOL",
            Self::Path => "PATH",
            Self::Host => "HOST",
            Self::Port | Self::FixedPort => "PORT",
            Self::Number | Self::Long | Self::Limit | Self::Float => "N",
            Self::Seconds | Self::Millis => "TIME",
            Self::Size => "SIZE",
            Self::Threads => "N|auto",
            Self::UrlPath => "URL-PATH",
            Self::Secret => "KEY",
            Self::Policy | Self::DecodePolicy => "POLICY",
            Self::AssignmentMode => "MODE",
            Self::Runtime => "ENGINE",
            Self::LogLevel => "LEVEL",
            Self::Urls => "URL",
            Self::Prefill => "URL [PORT|none]",
            Self::Origins => "ORIGIN",
            Self::Headers => "NAME",
            Self::Floats => "SECONDS",
            Self::Aliases => "ALIAS=NAME",
            Self::Text => "TEXT",
            Self::Url => "URL",
            Self::Paths => "PATH",
            Self::TenantKeys => "TENANT:KEY",
            Self::OperatorKeys => "ID:NAME:ROLE:KEY",
            Self::Roles => "WORD=ROLE",
        }
    }
}

/// The policies that a decode leg can have.
const DECODE_POLICIES: &[&str] = &[
    "cache_aware",
    "random",
    "round_robin",
    "power_of_two",
    "least_load",
    "prefix_hash",
    "consistent_hashing",
    "manual",
    "passthrough",
];

/// What a flag sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Nothing in the file: it says which file.
    File,
    /// A key outside the named tables.
    Key(&'static str),
    /// A boolean key that the switch turns off.
    Off(&'static str),
    /// A key of a word, and the words for a switch that is on and off.
    Word(&'static str, [&'static str; 2]),
    /// A key of the listener `main`.
    Listener(&'static str),
    /// The host of the address of the listener with this name.
    Host(&'static str),
    /// The port of the address of the listener with this name.
    Port(&'static str),
    /// The port of a listener for probes, on the host of `main`.
    Probes,
    /// A key of the pool `default`.
    Pool(&'static str),
    /// The aliases of a model.
    Aliases,
    /// The keys of a tenant.
    Tenants,
    /// The keys of operators.
    Operators,
    /// The policy of every model that names none.
    Policy,
    /// The policy of this leg of the pool `default`.
    LegPolicy(&'static str),
    /// Both legs of the pool `default`.
    Legs,
    /// An option of the policies of these kinds that are in force.
    Option(&'static [PolicyName], &'static str),
}

impl Target {
    /// The paths of the keys in the reference, where `[]` stands for the elements of a list.
    pub fn references(self) -> Vec<String> {
        vec![match self {
            Self::File => return Vec::new(),
            Self::Key(key) | Self::Off(key) | Self::Word(key, _) => key.to_owned(),
            Self::Listener(key) => format!("listeners[].{key}"),
            Self::Host(_) | Self::Port(_) | Self::Probes => "listeners[].address".to_owned(),
            Self::Pool(key) => format!("pools[].{key}"),
            Self::Aliases => "models[].aliases".to_owned(),
            Self::Tenants => "auth.tenants[].keys".to_owned(),
            Self::Operators => "auth.control_plane.api_keys[].key".to_owned(),
            Self::Policy => "routing.policy".to_owned(),
            Self::LegPolicy(leg) => format!("pools[].{leg}.policy"),
            Self::Legs => {
                return LEGS.map(|leg| format!("pools[].{leg}.workers")).to_vec();
            }
            Self::Option(kinds, option) => {
                let path = |kind: &PolicyName| format!("routing.policy.{kind}.{option}");
                return kinds.iter().map(path).collect();
            }
        }]
    }

    /// The key as the help shows it, with the name of the element that is meant.
    pub fn shown(self) -> Option<String> {
        Some(match self {
            Self::File => return None,
            Self::Key(key) | Self::Off(key) | Self::Word(key, _) => key.to_owned(),
            Self::Listener(key) => format!("listeners[{MAIN}].{key}"),
            Self::Host(name) | Self::Port(name) => format!("listeners[{name}].address"),
            Self::Probes => format!("listeners[{PROBES}].address"),
            Self::Pool(key) => format!("pools[{DEFAULT_POOL}].{key}"),
            Self::Aliases => "models[NAME].aliases".to_owned(),
            Self::Tenants => "auth.tenants[NAME].keys".to_owned(),
            Self::Operators => "auth.control_plane.api_keys".to_owned(),
            Self::Policy => "routing.policy".to_owned(),
            Self::LegPolicy(leg) => format!("pools[{DEFAULT_POOL}].{leg}.policy"),
            Self::Legs => LEGS
                .map(|leg| format!("pools[{DEFAULT_POOL}].{leg}"))
                .join(", "),
            Self::Option(kinds, option) => kinds
                .iter()
                .map(|kind| format!("policy.{kind}.{option}"))
                .collect::<Vec<_>>()
                .join(", "),
        })
    }
}

const LEGS: [&str; 2] = ["prefill", "decode"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_policy_but_one_can_decode() {
        let all = PolicyName::WORDS.iter().filter(|word| **word != "bucket");
        assert!(all.eq(DECODE_POLICIES));
    }
}
