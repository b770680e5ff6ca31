//! Who may ask and change the gateway itself.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_opens_the_control_plane() {
    let engine = plain_engine().await;
    let keys = [
        "",
        "shared-key",
        "tenant-key",
        "admin-key",
        "user-key",
        "wrong",
    ];
    let (all, admin, operators) = (
        &keys[..],
        &["admin-key"][..],
        &["admin-key", "user-key"][..],
    );
    let (shared, open) = (&["shared-key"][..], "[auth.control_plane]\nopen = true\n");
    for (file, reading, changing) in [
        (String::new(), all, all),
        (open.to_owned(), all, all),
        (SHARED.to_owned(), shared, shared),
        (format!("{SHARED}{TENANT}"), shared, shared),
        (format!("{SHARED}{open}"), shared, shared),
        (TENANT.to_owned(), &[], &[]),
        (OPERATORS.to_owned(), operators, admin),
        (format!("{SHARED}{OPERATORS}"), operators, admin),
        (
            format!("{SHARED}{TENANT}{JWT}{OPERATORS}"),
            operators,
            admin,
        ),
        (format!("{SHARED}{JWT}"), &[], &[]),
    ] {
        let smg = gateway(&[&engine], &file).await;
        for key in keys {
            for (method, path) in [
                (Method::GET, "/workers"),
                (Method::HEAD, "/workers"),
                (Method::GET, "/admin/config"),
                (Method::GET, "/get_loads"),
                (Method::POST, "/flush_cache"),
                (Method::POST, "/admin/pools/p/drain?"),
                (Method::DELETE, "/workers/no-id"),
                (Method::POST, "/admin/explain"),
            ] {
                let reads = matches!(method, Method::GET | Method::HEAD);
                let shown = by(key);
                let request = match path.ends_with('?') {
                    true => add(
                        json_request(path, &json!({ "drain": false })),
                        &lines(&shown),
                    ),
                    false => plain(method.clone(), path, &lines(&shown)),
                };
                let answer = sent(smg.main(), request).await;
                let opens = if reads { reading } else { changing };
                let at = format!("{file}\n{key} {method} {path}: {answer:?}");
                if opens.contains(&key) {
                    // Not every request makes sense, but each has come in.
                    assert!(!matches!(answer.status, 401 | 403 | 429), "{at}");
                } else if reading.contains(&key) {
                    assert_error(&answer, 403, "forbidden");
                } else if method == Method::HEAD {
                    assert!(matches!(answer.status, 401 | 429), "{at}");
                } else if answer.status != 429 {
                    assert_refused(&answer, "control-plane", "invalid_api_key");
                    let expected = match key {
                        "" => "Missing or invalid Authorization header",
                        _ => "Invalid authentication token",
                    };
                    assert_eq!(message(&answer), expected, "{at}");
                }
            }
        }
        // Metrics have a listener of their own, and ask nobody.
        assert_eq!(get(smg.address("metrics"), "/metrics").await.status, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_credential_the_control_plane_is_this_machines() {
    let smg = Smg::start(LISTENERS).await;
    for host in [
        "localhost",
        "LOCALHOST:80",
        "127.0.0.1:1",
        "[::1]:30000",
        "127.0.0.2",
    ] {
        let answer = sent(
            smg.main(),
            plain(Method::GET, "/workers", &[("host", host)]),
        )
        .await;
        assert_eq!(answer.status, 200, "{host}");
    }
    // A page whose name was made to mean this address.
    for host in [
        "evil.example",
        "localhost.evil.example:80",
        "10.0.0.1",
        "x@evil.example",
    ] {
        let hostile = plain(Method::GET, "/workers", &[("host", host)]);
        assert_error(&sent(smg.main(), hostile).await, 403, "forbidden");
    }
    let mut h2 = Connection::h2_over(
        tokio::net::TcpStream::connect(smg.main()).await.unwrap(),
        "evil.example",
    )
    .await;
    let answer = h2.send(plain(Method::GET, "/workers", &[])).await;
    assert_error(&answer, 403, "forbidden");
    let forwarded = [("x-forwarded-for", "127.0.0.1")];
    let answer = sent(smg.main(), plain(Method::GET, "/workers", &forwarded)).await;
    assert_refused(&answer, "control-plane", "invalid_api_key");
    let said = message(&answer);
    for setting in [
        "auth.control_plane.open = true",
        "auth.control_plane.api_keys",
        "auth.api_key",
    ] {
        assert!(said.contains(setting), "{said}");
    }
    // With `open` there are no strangers; with a key it does not matter where it is shown.
    let open = format!("{LISTENERS}[auth.control_plane]\nopen = true\n");
    let keyed = format!("{LISTENERS}{SHARED}");
    for (file, key) in [(open, ""), (keyed, "shared-key")] {
        let smg = Smg::start(&file).await;
        let mut shown = by(key);
        shown.push(("x-forwarded-for", "192.0.2.1".to_owned()));
        shown.push(("host", "gw.example".to_owned()));
        let answer = sent(smg.main(), plain(Method::GET, "/workers", &lines(&shown))).await;
        assert_eq!(answer.status, 200, "{file}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_socket_asks_for_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let (socket, unix) = (
        folder.path().join("control.sock"),
        folder.path().join("admin.sock"),
    );
    let file = format!(
        "{LISTENERS}[[listeners]]\nname = \"unix\"\naddress = \"unix:{}\"\nserve = [\"admin\"]\n\
         [server]\ncontrol_socket = {socket:?}\n{OPERATORS}",
        unix.display()
    );
    let smg = Smg::start(&file).await;
    let reload = || json_request("/admin/reload", &json!({}));
    let over =
        async |path| Connection::h1_over(UnixStream::connect(path).await.unwrap(), "x").await;
    assert_eq!(over(&socket).await.send(reload()).await.status, 200);
    // A socket of the file is a listener like others.
    let refused = over(&unix).await.send(reload()).await;
    assert_refused(&refused, "control-plane", "invalid_api_key");
    let admin = by("admin-key");
    let taken = over(&unix).await.send(add(reload(), &lines(&admin))).await;
    assert_eq!(taken.status, 200);
    let metrics = smg.metrics().await;
    let peers = [
        ("plane", "control"),
        ("method", "peer"),
        ("outcome", "allowed"),
    ];
    assert_eq!(metrics.sum("smg_auth_decisions_total", &peers), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_public_until_there_is_a_credential() {
    let engine = FakeEngine::start(|asked| match &*asked.path {
        "/v1/models" => vec![Step::json(200, &json!({ "data": [{ "id": "m" }] }))],
        "/metrics" => vec![Step::answer(200, "text/plain", "x 1\n")],
        _ => vec![Step::json(200, &json!({}))],
    })
    .await;
    let inference = [
        "/health_generate",
        "/get_server_info",
        "/server_info",
        "/model_info",
    ];
    let exposed = "[[listeners]]\nname = \"both\"\naddress = \"127.0.0.1:0\"\n\
                   serve = [\"inference\"]\nengine_metrics =";
    let smg = gateway(&[&engine], "").await;
    for path in inference.iter().chain(&["/engine_metrics"]) {
        assert_eq!(get(smg.main(), path).await.status, 200, "{path}");
    }
    let smg = gateway(
        &[&engine],
        &format!("{TENANT}{OPERATORS}{exposed} \"public\"\n"),
    )
    .await;
    for path in inference {
        for (key, status) in [("", 401), ("admin-key", 401), ("tenant-key", 200)] {
            let shown = by(key);
            let answer = sent(smg.main(), plain(Method::GET, path, &lines(&shown))).await;
            assert_eq!(answer.status, status, "{path} {key}");
        }
    }
    for (key, status) in [
        ("", 401),
        ("tenant-key", 401),
        ("user-key", 200),
        ("admin-key", 200),
    ] {
        let shown = by(key);
        let asked = || plain(Method::GET, "/engine_metrics", &lines(&shown));
        assert_eq!(sent(smg.main(), asked()).await.status, status, "{key}");
        assert_eq!(
            sent(smg.address("both"), asked()).await.status,
            200,
            "{key}"
        );
    }
    // Keys of the control plane alone leave the inference routes as they were.
    let smg = gateway(&[&engine], &format!("{OPERATORS}{exposed} \"admin\"\n")).await;
    assert_eq!(get(smg.main(), "/server_info").await.status, 200);
    assert_eq!(get(smg.main(), "/engine_metrics").await.status, 401);
    let smg = gateway(&[&engine], &format!("{exposed} \"admin\"\n")).await;
    assert_eq!(get(smg.main(), "/engine_metrics").await.status, 200);
    assert_eq!(
        get(smg.address("both"), "/engine_metrics").await.status,
        200
    );
    let forwarded = plain(
        Method::GET,
        "/engine_metrics",
        &[("x-real-ip", "192.0.2.1")],
    );
    assert_eq!(sent(smg.address("both"), forwarded).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_doors_are_told_of_at_the_start() {
    let public = LISTENERS.replacen(
        "name = \"main\"\naddress = \"127.0.0.1:0\"",
        "name = \"main\"\naddress = \"0.0.0.0:0\"",
        1,
    );
    let inference = "its inference routes ask for no credential";
    let control = "the control plane is open to everybody";
    let open = "[auth.control_plane]\nopen = true\n";
    for (file, told) in [
        (LISTENERS.to_owned(), &[][..]),
        (public.clone(), &[inference]),
        (format!("{public}{SHARED}"), &[]),
        (format!("{LISTENERS}{open}"), &[control]),
        (format!("{LISTENERS}{open}{OPERATORS}"), &[]),
        (format!("{public}{open}"), &[inference, control]),
    ] {
        let mut smg = Smg::start(&file).await;
        let output = smg.process().output();
        for line in [inference, control] {
            let found = output.iter().any(|said| said.contains(line));
            assert_eq!(found, told.contains(&line), "{file}: {output:?}");
        }
    }
}

/// `smg` with these arguments and variables.
fn run(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = smg::command();
    command.args(args).envs(variables.iter().copied());
    tokio::task::block_in_place(|| process::run(&mut command, PATIENCE))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_show_the_key_that_they_are_given() {
    let engine = plain_engine().await;
    let smg = gateway(&[&engine], OPERATORS).await;
    let url = format!("http://{}", smg.main());
    let file = smg.config_path();
    let file = file.to_str().unwrap();
    let request = smg.folder().join("request.json");
    std::fs::write(&request, ask().to_string()).unwrap();
    let request = request.to_str().unwrap();
    let reload = ["reload", "--url", &url];
    let explain = ["explain", "--live", &url, "--request", request];
    let diff = ["config", "diff", file, "--live", &url];
    for command in [&reload[..], &explain, &diff] {
        let good = run(&[command, &["--key", "admin-key"]].concat(), &[]);
        assert_eq!(good.status.code(), Some(0), "{good:?}");
        let named = run(command, &[("SMG_KEY", "admin-key")]);
        assert_eq!(named.status.code(), Some(0), "{named:?}");
        let typed = run(
            &[command, &["--key", "admin-key"]].concat(),
            &[("SMG_KEY", "x")],
        );
        assert_eq!(typed.status.code(), Some(0), "{typed:?}");
        for (args, variables) in [
            (&[][..], &[][..]),
            (&["--key", "wrong-key"], &[]),
            (&[], &[("SMG_KEY", "wrong-key")]),
            (&["--key", "bad\nkey"], &[]),
        ] {
            let refused = run(&[command, args].concat(), variables);
            assert!(matches!(refused.status.code(), Some(1 | 2)), "{refused:?}");
            let told = String::from_utf8_lossy(&refused.stderr);
            assert!(!told.is_empty() && !told.contains("wrong-key"), "{told}");
        }
    }
    let reader = run(&[&reload[..], &["--key", "user-key"]].concat(), &[]);
    assert_eq!(reader.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&reader.stderr).contains("403"),
        "{reader:?}"
    );
}
