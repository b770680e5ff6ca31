//! Which program a command line starts, and where its flags begin.

use super::dialect::Dialect;
use super::line::{self, Word};

/// A command that starts a gateway.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Launch {
    /// Whose flags follow.
    pub(super) dialect: Dialect,
    /// Whether it starts engines, too.
    pub(super) engines: bool,
    /// Variables that are set for it, in order.
    pub(super) variables: Vec<(String, Word)>,
    /// The flags.
    pub(super) flags: Vec<Word>,
}

/// Why no command is one that starts a gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum LaunchError {
    /// Nothing that is known.
    #[error(
        "there is no launch command: expected one such as `smg --port 8080`, `sglang-router launch …` \
         or `python -m sglang_router.launch_router …`"
    )]
    None,
    /// Several of them.
    #[error("there are {0} launch commands: convert one at a time")]
    Several(usize),
    /// One that starts an engine only.
    #[error("the command starts an engine, not a gateway")]
    Engine,
    /// Another command of the same program.
    #[error("`{0}` is not a command that starts a gateway")]
    Other(&'static str),
}

/// Finds the command that starts a gateway.
///
/// # Errors
/// [`LaunchError`] where there is not exactly one.
pub(super) fn find(commands: Vec<Vec<Word>>) -> Result<Launch, LaunchError> {
    let mut variables: Vec<(String, Word)> = Vec::new();
    let mut found: Vec<Launch> = Vec::new();
    let mut other = LaunchError::None;
    for command in commands {
        let mut words = command.into_iter().peekable();
        // What a transcript shows before a command is none.
        while words
            .next_if(|word| matches!(word.text.as_str(), "$" | "%" | "#" | "export"))
            .is_some()
        {}
        let mut own = Vec::new();
        while let Some(word) = words.next_if(|word| line::assignment(word).is_some()) {
            if let Some((name, value)) = line::assignment(&word) {
                let value = Word {
                    text: value.to_owned(),
                    open: word.open,
                };
                own.push((name.to_owned(), value));
            }
        }
        let words: Vec<Word> = words.collect();
        if words.is_empty() {
            variables.append(&mut own);
            continue;
        }
        match program(words) {
            Ok(mut launch) => {
                own.append(&mut launch.variables);
                launch.variables = variables.iter().cloned().chain(own).collect();
                found.push(launch);
            }
            Err(LaunchError::None) => {}
            Err(error) => other = error,
        }
    }
    match found.len() {
        0 => Err(other),
        1 => found.pop().ok_or(LaunchError::None),
        several => Err(LaunchError::Several(several)),
    }
}

fn program(words: Vec<Word>) -> Result<Launch, LaunchError> {
    if words.first().is_some_and(|word| word.text.starts_with('-')) {
        return Ok(launch(Dialect::Smg, false, words));
    }
    if let [tool, run, ..] = words.as_slice()
        && matches!(base(&tool.text), "docker" | "podman" | "nerdctl")
        && run.text == "run"
    {
        return container(words);
    }
    let mut engine = false;
    for (at, word) in words.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|at| words.get(at));
        let dialect = match before {
            Some(flag) if flag.text == "-m" => module(&word.text),
            // As whom a program runs is not what runs.
            Some(flag) if matches!(flag.text.as_str(), "-u" | "-g" | "--user") => None,
            _ => executable(&word.text),
        };
        if let Some((dialect, engines)) = dialect {
            let mut rest: Vec<Word> = words.into_iter().skip(at + 1).collect();
            let mut launch = launch(dialect, engines, Vec::new());
            command(&mut launch, &mut rest)?;
            launch.flags = rest;
            return Ok(launch);
        }
        engine |= matches!(word.text.as_str(), "sglang.launch_server" | "vllm")
            || word.text.starts_with("vllm.entrypoints");
    }
    Err(match engine {
        true => LaunchError::Engine,
        false => LaunchError::None,
    })
}

fn launch(dialect: Dialect, engines: bool, flags: Vec<Word>) -> Launch {
    Launch {
        dialect,
        engines,
        variables: Vec::new(),
        flags,
    }
}

/// Takes the word behind the program that says what it is to do.
fn command(launch: &mut Launch, rest: &mut Vec<Word>) -> Result<(), LaunchError> {
    let Some(word) = rest.first().filter(|word| !word.text.starts_with('-')) else {
        return Ok(());
    };
    match word.text.as_str() {
        "launch" | "start" => {}
        "server" => launch.engines = true,
        "serve" => {
            launch.engines = true;
            launch.dialect = Dialect::Smg1;
        }
        "check-config" => return Err(LaunchError::Other("check-config")),
        "config" => return Err(LaunchError::Other("config")),
        "reload" => return Err(LaunchError::Other("reload")),
        _ => return Ok(()),
    }
    rest.remove(0);
    Ok(())
}

/// The gateway that an executable is, and whether it starts engines.
fn executable(text: &str) -> Option<(Dialect, bool)> {
    Some(match base(text) {
        "smg" => (Dialect::Smg, false),
        "sglang-router" | "sglang_router" | "amg" => (Dialect::SglangRouter, false),
        "vllm-router" | "vllm_router" => (Dialect::VllmRouter, false),
        _ => return None,
    })
}

/// The gateway that a Python module is, and whether it starts engines.
fn module(text: &str) -> Option<(Dialect, bool)> {
    Some(match text {
        "sglang_router" | "sglang_router.launch_router" | "sglang_router.cli" => {
            (Dialect::SglangRouter, false)
        }
        "sglang_router.launch_server" => (Dialect::SglangRouter, true),
        "smg" | "smg.launch_router" | "smg.cli" => (Dialect::Smg1, false),
        "smg.serve" => (Dialect::Smg1, true),
        "vllm_router" | "vllm_router.launch_router" => (Dialect::VllmRouter, false),
        _ => return None,
    })
}

fn base(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Options of `docker run` that take their value from the next word.
const WITH_VALUE: &[&str] = &[
    "-e",
    "--env",
    "-p",
    "--publish",
    "-v",
    "--volume",
    "--name",
    "--network",
    "--net",
    "--gpus",
    "--ipc",
    "--shm-size",
    "-u",
    "--user",
    "-w",
    "--workdir",
    "--restart",
    "--entrypoint",
    "--env-file",
    "-m",
    "--memory",
    "--cpus",
    "-l",
    "--label",
    "--mount",
    "-h",
    "--hostname",
    "--runtime",
    "--ulimit",
    "--platform",
    "--pull",
    "--add-host",
    "--log-driver",
    "--log-opt",
    "--cap-add",
    "--cap-drop",
    "--security-opt",
    "--device",
    "--cpuset-cpus",
    "--pid",
    "--dns",
    "--tmpfs",
];

/// A program that runs in a container: the options of the container are not the program's.
fn container(words: Vec<Word>) -> Result<Launch, LaunchError> {
    let mut variables = Vec::new();
    let mut entry: Option<Word> = None;
    let mut words = words.into_iter().skip(2).peekable();
    while let Some(option) = words.next_if(|word| word.text.starts_with('-')) {
        let (name, inline) = match option.text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (option.text.clone(), None),
        };
        let value = match inline {
            Some(text) => Some(Word {
                text,
                open: option.open,
            }),
            None if WITH_VALUE.contains(&name.as_str()) => words.next(),
            None => None,
        };
        match (name.as_str(), value) {
            ("-e" | "--env", Some(word)) => {
                if let Some((name, value)) = line::assignment(&word) {
                    let value = Word {
                        text: value.to_owned(),
                        open: word.open,
                    };
                    variables.push((name.to_owned(), value));
                }
            }
            ("--entrypoint", value) => entry = value,
            _ => {}
        }
    }
    let image = words.next().ok_or(LaunchError::None)?;
    let rest: Vec<Word> = entry.into_iter().chain(words).collect();
    let mut found = match rest.first() {
        Some(word) if !word.text.starts_with('-') => program(rest)?,
        _ => {
            let dialect = match image.text.as_str() {
                image if image.contains("vllm") => Dialect::VllmRouter,
                image if image.contains("sglang") => Dialect::SglangRouter,
                _ => Dialect::Smg,
            };
            launch(dialect, false, rest)
        }
    };
    variables.append(&mut found.variables);
    found.variables = variables;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Launch, LaunchError> {
        find(line::split(text).unwrap())
    }

    #[test]
    fn programs() {
        use Dialect::{SglangRouter, Smg, Smg1, VllmRouter};
        for (text, dialect, engines, flags) in [
            ("smg", Smg, false, 0),
            ("--port 1", Smg, false, 2),
            ("/usr/local/bin/smg launch --port 1", Smg, false, 2),
            ("sudo -u smg /usr/bin/smg start --port 1", Smg, false, 2),
            ("sglang-router launch --port 1", SglangRouter, false, 2),
            (
                "python3 -m sglang_router.launch_router --port 1",
                SglangRouter,
                false,
                2,
            ),
            (
                "python -u -m sglang_router.launch_server --dp-size 1",
                SglangRouter,
                true,
                2,
            ),
            ("smg server --dp-size 2", Smg, true, 2),
            ("smg serve --dp-size 2", Smg1, true, 2),
            ("python -m smg launch --port 1", Smg1, false, 2),
            ("vllm-router --port 1", VllmRouter, false, 2),
            ("A=1 nohup vllm-router --port 1 &", VllmRouter, false, 2),
            (
                "docker run -d --name smg -p 1:1 -e SMG_PORT=1 lmsysorg/sglang-router:v0.3 --port 1",
                SglangRouter,
                false,
                2,
            ),
            (
                "docker run --rm img python -m vllm_router.launch_router --a",
                VllmRouter,
                false,
                1,
            ),
        ] {
            let launch = read(text).unwrap();
            assert_eq!(
                (launch.dialect, launch.engines, launch.flags.len()),
                (dialect, engines, flags),
                "{text}"
            );
        }
    }

    #[test]
    fn variables_before_the_program() {
        let launch =
            read("export A=1\nB=2 docker run -e C=3 --env=D=4 -e E x smg --port 1").unwrap();
        let names: Vec<&str> = launch
            .variables
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(names, ["A", "B", "C", "D"]);
        assert_eq!(launch.flags.len(), 2);
    }

    #[test]
    fn what_starts_no_gateway() {
        assert_eq!(read(""), Err(LaunchError::None));
        assert_eq!(read("ls -l"), Err(LaunchError::None));
        assert_eq!(
            read("python -m sglang.launch_server --port 1"),
            Err(LaunchError::Engine)
        );
        assert_eq!(read("smg reload"), Err(LaunchError::Other("reload")));
        assert_eq!(
            read("smg --port 1; smg --port 2"),
            Err(LaunchError::Several(2))
        );
    }
}
