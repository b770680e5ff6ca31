//! Real worker processes on ports of their own, which are killed without warning and started again.

use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::support::process::Process;
use crate::support::smg;

const START: Duration = Duration::from_secs(20);

/// A sample worker that comes back on the same port.
pub(crate) struct Mortal {
    address: SocketAddr,
    process: Option<Process>,
    /// Keeps the port while the process is dead.
    _claim: Socket,
}

impl Mortal {
    pub(crate) async fn start() -> Self {
        let claim = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        claim.set_reuse_address(true).unwrap();
        claim
            .bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())
            .unwrap();
        let mut mortal = Self {
            address: claim.local_addr().unwrap().as_socket().unwrap(),
            process: None,
            _claim: claim,
        };
        mortal.revive().await;
        mortal
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// `kill -9`, by its own pid.
    pub(crate) fn kill9(&mut self) {
        self.process = None; // killed and reaped on drop
    }

    /// Starts it unless it runs.
    pub(crate) async fn revive(&mut self) {
        if self.process.is_some() {
            return;
        }
        let mut command = smg::command();
        let port = self.address.port().to_string();
        command.args(["sample-worker", "--port", &port, "--model", "mortal"]);
        command.args(["--itl", "5ms"]);
        let mut process = Process::spawn("the sample worker", &mut command);
        process
            .line(START, |line| {
                line.contains("sample worker listening on ").then_some(())
            })
            .await;
        self.process = Some(process);
    }
}
