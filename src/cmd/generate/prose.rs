//! What the manual pages say that no type and no flag can say.

/// What begins a paragraph that is to stand as it is.
pub(super) const VERBATIM: &str = "\u{1}";

/// The chapters of the reference of `smg.toml` before its keys.
pub(super) static INTRODUCTION: &[(&str, &[&str])] = &[
    (
        "DESCRIPTION",
        &[
            "The file is TOML. It says `version = 1`, then where clients connect \
             (`[[listeners]]`), who does the work (`[[pools]]`), what clients ask for \
             (`[[models]]`), and how all of it behaves. Every key but `version` has a default. A \
             key that is not described here is an error, and so is one of a feature that this \
             version does not have.",
            "\u{1}version = 1\n\n\
             [[pools]]\n\
             name = \"llama\"\n\
             workers = [\"http://10.0.0.11:8000\", \"http://10.0.0.12:8000\"]\n\n\
             [[models]]\n\
             name = \"meta-llama/Llama-3.1-8B-Instruct\"\n\
             aliases = [\"llama3\"]\n\
             pool = \"llama\"",
            "`smg check-config` finds all mistakes of a file at once. A running gateway takes a \
             changed file over by itself, and `smg reload` prints the outcome; a file with \
             mistakes changes nothing.",
        ],
    ),
    (
        "VALUES",
        &[
            "A duration is a string of a whole number and a unit: `ms`, `s`, `m`, `h` or `d`, as \
             in \"250ms\" and \"30m\". The unit is needed in \"0s\", too, which turns many \
             deadlines off.",
            "A size is a string of a whole number and a unit: `B`, `KiB`, `MiB`, `GiB`, `TiB`, or \
             `KB`, `MB`, `GB`, `TB` for powers of ten.",
            "A path that is relative starts at the folder of the file it stands in.",
            "A secret is a table that says where it is: `{ env = \"NAME\" }`, \
             `{ file = \"/path\" }`, or `{ credential = \"name\" }` for one that systemd hands \
             over. A plain string is accepted with a warning. Secrets are shown as `***` \
             everywhere.",
            "In every string, `${NAME}` is replaced by the variable of this name, \
             `${NAME:-default}` has a default for one that is unset, `${NAME:?message}` a message, \
             and `$$` is a dollar sign.",
        ],
    ),
    (
        "POLICIES",
        &[
            "Where a policy is asked for, its name may stand, or a table with its name as the only \
             key and its options below: `policy = \"round_robin\"`, `policy.cache_aware = { \
             memory = \"1GiB\" }`. The policy of a request is that of its model; where that has \
             none, of the leg of its pool; else `routing.policy`. What a policy remembers is kept \
             for each entry of `[[models]]` and each leg, and survives a reload.",
        ],
    ),
    (
        "LEGS",
        &[
            "A pool with `[pools.prefill]` and `[pools.decode]` sends each request to a pair of \
             workers: one reads the prompt, the other generates. The legs are chosen one \
             independently of the other, each by its own policy.",
            "\u{1}[[pools]]\n\
             name = \"llama-pd\"\n\
             runtime = \"sglang\"\n\n\
             [pools.prefill]\n\
             workers = [{ url = \"http://10.0.0.21:30001\", bootstrap_port = 9001 }]\n\
             policy = \"cache_aware\"\n\n\
             [pools.decode]\n\
             workers = [\"http://10.0.0.31:30003\", \"http://10.0.0.32:30003\"]\n\
             policy = \"power_of_two\"",
        ],
    ),
    (
        "SEVERAL FILES",
        &[
            "`include` names further files. Tables of several files merge key by key, lists of \
             tables append, and one key in two files is an error that shows both places.",
        ],
    ),
    (
        "PRECEDENCE",
        &[
            "A flag comes before its variable, a variable before the file, the file before the \
             default. A flag that sets a list replaces the list of the file. `--host` and `--port` \
             act on the listener `main`, `--prometheus-host` and `--prometheus-port` on the \
             listener `metrics`, `--worker-urls` and its like on the pool `default`; one that the \
             file does not define is added. `smg config dump --origins` shows of every value \
             where it comes from.",
            "`--policy` keeps the options that the file has for the same policy. An option of a \
             policy, such as `--cache-threshold`, acts on `routing.policy` and on the policies of \
             the legs of the pool `default`, wherever it is one that has the option.",
        ],
    ),
    (
        "RELOAD CLASSES",
        &[
            "A change of a `live` key is seen by the next request. With a `drain` key, \
             connections that are open finish under the old value. A reload that changes a \
             `restart` key is refused as a whole, with the list of such keys.",
        ],
    ),
];

/// What the program does.
pub(super) static DESCRIPTION: &[&str] = &[
    "`smg` takes requests of LLM APIs over HTTP and sends each to one of many inference workers. It \
     knows which worker serves which model, probes them, balances the load between them, tries \
     again where that is safe, and relays streams as they come.",
    "What it does is written in one file, described in `smg.toml`(5). A changed file is taken over \
     without losing a request. A flag overrides one key of the file; without a file, flags and \
     defaults are all there is.",
];

/// What holds for every option.
pub(super) static OPTIONS: &[&str] = &[
    "Each option has a variable, and a flag comes before its variable, a variable before the file. \
     An empty variable counts as unset. Yes is `1`, `true`, `yes` or `on`, no is `0`, `false`, `no` \
     or `off`. An option that takes several values takes them after one occurrence, after several, \
     or both; its variable has them between commas.",
    "`--prefill` takes one worker and may be repeated; a number behind the URL is its bootstrap \
     port, `none` says that it has none: `--prefill http://p:1 9001`. Its variable has the workers \
     between commas, each like that: `SMG_PREFILL='http://p:1 9001,http://q:1'`.",
    "TIME is a number with `ms`, `s`, `m` or `h`, or a bare number: of milliseconds where the option \
     ends in `-ms`, else of seconds. SIZE is a number of bytes, or has a unit as in 512MiB.",
];

/// What the exit status means.
pub(super) static EXIT_STATUS: &[(&str, &str)] = &[
    (
        "0",
        "All went well; after a shutdown, every request was answered.",
    ),
    (
        "1",
        "The gateway could not run or had to cut requests off; `reload`, `upgrade` or `top` found no \
         gateway; `upgrade` failed; `config diff` found a difference; anything else.",
    ),
    (
        "2",
        "The command line, or the value of a variable, is wrong.",
    ),
    ("3", "`check-config --deny-warnings` found warnings."),
    (
        "78",
        "The configuration is invalid or cannot be read; `reload` was refused.",
    ),
];

/// Files that the program knows by itself.
pub(super) static FILES: &[(&str, &str)] = &[
    (
        "/etc/smg/smg.toml",
        "The file that `check-config` and `reload` look at where none is named.",
    ),
    (
        "$RUNTIME_DIRECTORY/control.sock",
        "The control socket, where `server.control_socket` names no other; /run/smg/control.sock in \
         the packaged service.",
    ),
    (
        "$STATE_DIRECTORY/workers.json",
        "Workers that were added or changed over the API, where `server.state_dir` names no other \
         directory.",
    ),
];

/// Variables that are no option's.
pub(super) static ENVIRONMENT: &[(&str, &str)] = &[
    ("SMG_*", "One for each option, named above."),
    (
        "SMG_KEY",
        "The key that commands such as `smg reload` and `smg top` show the running gateway, where \
         `--key` says none.",
    ),
    (
        "RUST_LOG",
        "A filter for the log, such as `smg=debug`. It comes before the file, but after \
         `--log-level` and `SMG_LOG_LEVEL`.",
    ),
    ("NO_COLOR", "No colours, if it is set and not empty."),
    (
        "LC_ALL, LC_CTYPE, LANG",
        "Whether `smg top` may use signs beyond ASCII: the first that is set names UTF-8.",
    ),
    (
        "RUNTIME_DIRECTORY",
        "Set by systemd: where the control socket stands by default.",
    ),
    (
        "STATE_DIRECTORY",
        "Set by systemd: where workers that were added over the API are kept by default.",
    ),
    (
        "CREDENTIALS_DIRECTORY",
        "Set by systemd: where secrets of the form `{ credential = \"name\" }` are.",
    ),
    (
        "LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID",
        "Set by systemd: the sockets that addresses of the form `systemd:NAME` stand for.",
    ),
    (
        "NOTIFY_SOCKET",
        "Set by systemd: where start, reload and stop are reported to.",
    ),
    (
        "LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID",
        "Set by systemd: the sockets that it passes, for listeners whose address is `systemd:NAME`.",
    ),
    (
        "SMG_INHERIT, SMG_STAGE",
        "Set by a gateway for the process that takes over from it: what its sockets are for, and who has started it.",
    ),
    (
        "WATCHDOG_USEC",
        "Set by systemd: how often it expects a sign of life.",
    ),
];

/// What signals do to the gateway.
pub(super) static SIGNALS: &[(&str, &str)] = &[
    ("SIGHUP", "Takes the file over, like `smg reload`."),
    (
        "SIGUSR2",
        "Hands over to a new process of the installed binary, like `smg upgrade`.",
    ),
    (
        "SIGTERM, SIGINT",
        "Shut down: readiness fails at once, no connection is accepted any more, and requests in \
         flight may finish within `server.shutdown_grace_period`. A second signal ends it now.",
    ),
];

/// Examples: what for, and the lines.
pub(super) static EXAMPLES: &[(&str, &str)] = &[
    (
        "A gateway in front of two workers, without a file:",
        "smg --worker-urls http://10.0.0.11:8000 http://10.0.0.12:8000",
    ),
    (
        "Try it without an engine:",
        "smg sample-worker --port 8001 &\n\
         smg --host 127.0.0.1 --worker-urls http://127.0.0.1:8001",
    ),
    (
        "A gateway in front of prefill and decode workers:",
        "smg --prefill http://10.0.0.21:30001 9001 \\\n    \
         --decode http://10.0.0.31:30003 --decode-policy power_of_two",
    ),
    (
        "Change a running gateway:",
        "smg check-config /etc/smg/smg.toml\n\
         smg config diff /etc/smg/smg.toml --live\n\
         smg reload --wait",
    ),
    (
        "See what it does, live or as a report:",
        "smg top\nsmg top --once --url http://127.0.0.1:30000",
    ),
    (
        "Find out where a value comes from:",
        "smg config dump --config /etc/smg/smg.toml --origins",
    ),
    (
        "Check a file in a pipeline, away from its secrets:",
        "smg check-config smg.toml --no-environment --deny-warnings \\\n    --format github",
    ),
];
