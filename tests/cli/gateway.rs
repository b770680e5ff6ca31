//! Commands that ask a running gateway, which here is a socket with one answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use crate::binary::{GOOD, smg, status, stderr, stdout, write};

/// Answers one request with `status` and `body`, and returns its first line.
fn answer(mut stream: impl Read + Write, status: &str, body: &str) -> String {
    let mut first = String::new();
    let mut reader = BufReader::new(&mut stream);
    reader.read_line(&mut first).unwrap();
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap() > 2 {
        line.clear();
    }
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    first.trim().to_owned()
}

fn admin(status: &'static str, body: &'static str) -> (String, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let answering = std::thread::spawn(move || answer(listener.accept().unwrap().0, status, body));
    (url, answering)
}

#[test]
fn reload_prints_the_outcome() {
    for (answer, body, args, expected, said) in [
        (
            "200 OK",
            r#"{"result":"applied","generation":3,"sha256":"abc"}"#,
            &["--wait"][..],
            0,
            "applied: generation 3 (sha256 abc)\n",
        ),
        (
            "200 OK",
            r#"{"result":"unchanged","generation":3,"sha256":"abc"}"#,
            &[],
            0,
            "unchanged: generation 3 (sha256 abc)\n",
        ),
        (
            "422 Unprocessable Content",
            r#"{"result":"rejected","diagnostics":[{"slug":"unknown-key","severity":"error",
                "message":"no key `x`","primary":{"file":{"file":"/f","line":1,"column":2}}}]}"#,
            &[],
            78,
            "error[unknown-key]: no key `x`\n  --> /f:1:2\n",
        ),
        (
            "403 Forbidden",
            r#"{"error":{"message":"only local peers"}}"#,
            &[],
            1,
            "error: the gateway answered 403: only local peers\n",
        ),
        (
            "200 OK",
            "what?",
            &[],
            1,
            "error: the gateway answered 200\n",
        ),
    ] {
        let (url, answering) = admin(answer, body);
        let output = smg(&[&["reload", "--url", &url], args].concat(), &[]);
        let text = stdout(&output) + &stderr(&output);
        assert_eq!(status(&output), expected, "{text}");
        assert!(text.contains(said), "{text}");
        let query = if args.is_empty() { "" } else { "?wait=true" };
        assert_eq!(
            answering.join().unwrap(),
            format!("POST /admin/reload{query} HTTP/1.1")
        );
    }
}

#[test]
fn reload_finds_the_gateway_by_its_file_even_by_a_broken_one() {
    const DONE: &str = r#"{"result":"applied","generation":2,"sha256":"abc"}"#;
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let answering = std::thread::spawn(move || {
        for _ in 0..2 {
            answer(listener.accept().unwrap().0, "200 OK", DONE);
        }
    });
    let text = "version = 1\nserver.control_socket = 'control.sock'\nx = 1\n";
    let file = write(dir.path(), "smg.toml", text);
    let output = smg(&["reload", "-c", &file], &[]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    let runtime = dir.path().to_str().unwrap();
    let output = smg(&["reload"], &[("RUNTIME_DIRECTORY", runtime)]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    answering.join().unwrap();

    let (url, answering) = admin("200 OK", DONE);
    let address = url.trim_start_matches("http://");
    let text = format!(
        "version = 1\n[[listeners]]\nname = 'metrics'\naddress = '127.0.0.1:1'\n\
         serve = ['metrics']\n[[listeners]]\nname = 'main'\naddress = '{address}'\n\
         serve = ['inference', 'admin']\n"
    );
    let file = write(dir.path(), "tcp.toml", &text);
    let output = smg(&["reload", "-c", &file], &[]);
    assert_eq!(status(&output), 0, "{}", stderr(&output));
    answering.join().unwrap();
}

#[test]
fn reload_without_a_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("{}server.control_socket = 'none.sock'\n", "version = 1\n");
    let text = text + "[[listeners]]\nname = 'm'\naddress = '127.0.0.1:0'\nserve = ['inference']\n";
    let file = write(dir.path(), "smg.toml", &text);
    let output = smg(&["reload", "-c", &file], &[]);
    assert_eq!(status(&output), 1);
    let said = stderr(&output);
    assert!(
        said.starts_with("error: no gateway answers: unix:"),
        "{said}"
    );
    assert!(said.contains("no such file"), "{said}");
    let text = text.replace("server.control_socket = 'none.sock'\n", "");
    let file = write(dir.path(), "smg.toml", &text);
    let output = smg(&["reload", "-c", &file], &[]);
    assert_eq!(status(&output), 1);
    assert!(
        stderr(&output).contains("no control socket"),
        "{}",
        stderr(&output)
    );
    let output = smg(&["reload", "-c", "nowhere.toml"], &[]);
    assert_eq!(status(&output), 1);
    assert!(
        stderr(&output).starts_with("error: cannot read `nowhere.toml`"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn diff_with_the_running_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "smg.toml", GOOD);
    let live: serde_json::Value = {
        let spec: smg::config::Spec = toml::from_str(&GOOD.replace(":9", ":10")).unwrap();
        serde_json::json!({ "config": spec })
    };
    let body: &'static str = live.to_string().leak();
    let (url, answering) = admin("200 OK", body);
    let output = smg(&["config", "diff", &file, "--live", &url], &[]);
    assert_eq!(status(&output), 1, "{}", stderr(&output));
    assert!(stdout(&output).contains("+ pools[a].workers[http://127.0.0.1:9]  (live)"));
    assert_eq!(answering.join().unwrap(), "GET /admin/config HTTP/1.1");
}
