//! `smg schema`, `smg completions`, `smg man`: what is made from the types and the table of flags.

mod commands_page;
mod keys_page;
mod markdown;
mod prose;
mod reference;
mod roff;

use std::io;
use std::path::{Path, PathBuf};

use clap::Command;
use clap_complete::Shell;

/// The JSON schema of the file.
pub(super) fn schema() -> String {
    format!("{:#}\n", crate::config::json_schema())
}

/// A script that completes the command line in `shell`.
pub(super) fn completions(command: &Command, shell: Shell) -> Vec<u8> {
    let mut out = Vec::new();
    clap_complete::generate(shell, &mut command.clone(), "smg", &mut out);
    out
}

/// The manual page `smg(1)`.
pub(super) fn man(command: &Command) -> String {
    let mut command = command.clone();
    command.build();
    commands_page::page(&command)
}

/// The reference of `smg.toml` as Markdown.
pub(super) fn markdown() -> String {
    markdown::reference()
}

/// Why a page could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write `{}`: {source}", path.display())]
pub(super) struct WriteError {
    path: PathBuf,
    source: io::Error,
}

/// Writes every manual page to `dir`, which is made if it is missing.
///
/// # Errors
/// [`WriteError`] if a file or the directory cannot be written.
pub(super) fn write_pages(command: &Command, dir: &Path) -> Result<(), WriteError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        |source| WriteError { path, source }
    };
    std::fs::create_dir_all(dir).map_err(failed(dir))?;
    for (name, page) in [("smg.1", man(command)), ("smg.toml.5", keys_page::page())] {
        let path = dir.join(name);
        std::fs::write(&path, page).map_err(failed(&path))?;
    }
    Ok(())
}
