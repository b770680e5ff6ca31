//! `compile(&Spec, &Facts) -> Plan`: what the configuration means, as pure data.
