//! A gateway that knows one answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The figures that it tells.
pub(crate) const OVERVIEW: &str = include_str!("../../fixtures/top/overview.json");

/// It answers every request on its address with a status and a body, until it is dropped.
pub(crate) struct Overviews {
    address: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Overviews {
    pub(crate) fn start(address: &str, status: u16, body: &'static str) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&ended);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) > 0 {
                    head.extend(byte);
                }
                let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
                let asked = head.starts_with("get /admin/overview http/1.1\r\n");
                let status = if asked { status } else { 400 };
                let answer = format!(
                    "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n\
                     content-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                stream.write_all(answer.as_bytes()).ok();
            }
        });
        Self {
            address,
            ended,
            thread: Some(thread),
        }
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Overviews {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        std::net::TcpStream::connect(self.address).ok();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}
