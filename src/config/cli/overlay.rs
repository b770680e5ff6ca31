//! Settings of flags to settings of keys.

use toml::{Table, Value};

use super::flag::{Kind, Target};
use super::setting::Setting;
use super::table::{DEFAULT_POOL, MAIN, PROBES};
use super::value::{aliases, roles, tenants};
use crate::config::{self as overlay, Given, Overlay};

/// What `settings` say over the file. Of two that set the same key the command line comes before
/// the environment, and a later one before an earlier one.
pub fn overlay(settings: &[Setting]) -> Overlay {
    let mut overlay = Overlay::default();
    for setting in settings {
        lay(&mut overlay, setting);
    }
    overlay
}

fn lay(overlay: &mut Overlay, setting: &Setting) {
    let Setting {
        flag,
        given,
        values,
    } = setting;
    let Some(value) = value(flag.kind, given, values) else {
        return;
    };
    let yes = value.as_bool() == Some(true);
    let (target, value) = match flag.target {
        Target::File => return,
        Target::Key(key) => (key_of(key), value),
        Target::Off(key) => (key_of(key), Value::Boolean(!yes)),
        Target::Word(key, [on, off]) => (key_of(key), Value::from(if yes { on } else { off })),
        Target::Host(name) => (overlay::Target::ListenerHost(name.to_owned()), value),
        Target::Port(name) => (overlay::Target::ListenerPort(name.to_owned()), value),
        Target::Probes => (overlay::Target::ListenerPort(PROBES.to_owned()), value),
        Target::Listener(key) => {
            let target = overlay::Target::Listener(MAIN.to_owned(), key.to_owned());
            (target, value)
        }
        Target::Pool(key) => {
            let target = overlay::Target::Pool(DEFAULT_POOL.to_owned(), key.to_owned());
            (target, value)
        }
        Target::Policy => (overlay::Target::Policy, value),
        Target::LegPolicy(leg) => {
            let target = overlay::Target::LegPolicy(DEFAULT_POOL.to_owned(), leg.to_owned());
            (target, value)
        }
        Target::Legs => (overlay::Target::Legs(DEFAULT_POOL.to_owned()), value),
        Target::Option(kinds, option) => {
            let target = overlay::Target::PolicyOption {
                pool: DEFAULT_POOL.to_owned(),
                kinds: kinds.to_vec(),
                option: option.to_owned(),
            };
            (target, value)
        }
        Target::Aliases => {
            for (name, aliases) in aliases(values) {
                let target = overlay::Target::Model(name, "aliases".to_owned());
                overlay.set(target, aliases, given.clone());
            }
            return;
        }
        Target::Operators => (key_of("auth.control_plane.api_keys"), value),
        Target::Tenants => {
            for (name, keys) in tenants(values) {
                let target = overlay::Target::Tenant(name, "keys".to_owned());
                overlay.set(target, keys, given.clone());
            }
            return;
        }
    };
    overlay.set(target, value, given.clone());
}

fn key_of(key: &str) -> overlay::Target {
    overlay::Target::Key(key.to_owned())
}

fn value(kind: Kind, given: &Given, values: &[Value]) -> Option<Value> {
    match (kind, given) {
        (Kind::Roles, _) => Some(roles(values)),
        (kind, _) if kind.is_list() => Some(Value::Array(values.to_vec())),
        // The secret stays where it is: the key only says which variable has it.
        (Kind::Secret, Given::Env(name)) => {
            let source = [("env".to_owned(), Value::from(name.as_str()))];
            Some(Value::Table(Table::from_iter(source)))
        }
        _ => values.last().cloned(),
    }
}
