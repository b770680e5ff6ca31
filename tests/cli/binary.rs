//! Runs the binary and looks at what it leaves.

use std::path::Path;
use std::process::{Command, Output};

/// Runs the binary with nothing but these arguments and variables.
pub(crate) fn smg(args: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_smg"))
        .args(args)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

pub(crate) fn status(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

pub(crate) const GOOD: &str = "version = 1\n[[listeners]]\nname = 'main'\naddress = '127.0.0.1:0'\n\
                    serve = ['inference', 'admin', 'probes']\n[[pools]]\nname = 'a'\n\
                    workers = ['http://127.0.0.1:9']\n";

pub(crate) fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}
