//! Where the figures come from: `GET /admin/overview` of the running gateway.

use std::time::Duration;

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::clean::{clean, cleaned};
use crate::api::overview::Overview;
use crate::cmd::client::{Client, ClientError};
use crate::cmd::reload::{status_of, unexpected};

const PATH: &str = "/admin/overview";

/// How long a gateway may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A gateway that is asked again and again.
#[derive(Debug)]
pub(super) struct Feed(Client);

/// Why there are no figures. The text holds nothing that steers a terminal.
#[derive(Debug, thiserror::Error)]
pub(super) enum FeedError {
    /// It could not be asked.
    #[error("{}", on_one_line(&.0.to_string()))]
    Client(#[from] ClientError),
    /// It said something else.
    #[error("{}", on_one_line(.0))]
    Refused(String),
    /// It does not know the question.
    #[error("the gateway has no overview: is it of an older version?")]
    Unknown,
    /// It said nothing.
    #[error("the gateway does not answer")]
    Silent,
}

impl FeedError {
    /// The exit status where this is the end.
    pub(super) fn status(&self) -> u8 {
        match self {
            Self::Client(error) => status_of(error),
            Self::Refused(_) | Self::Unknown | Self::Silent => crate::cmd::exit::FAILED,
        }
    }
}

impl Feed {
    /// Asks through `client`.
    pub(super) fn new(client: Client) -> Self {
        Self(client)
    }

    /// The gateway as it is now, with nothing in it that steers a terminal.
    ///
    /// # Errors
    /// [`FeedError`].
    pub(super) async fn ask(&self) -> Result<Overview, FeedError> {
        let mut body = self.json().await?;
        clean(&mut body);
        serde_json::from_value(body).map_err(|_| FeedError::Unknown)
    }

    /// The same as the gateway wrote it.
    ///
    /// # Errors
    /// [`FeedError`].
    pub(super) async fn json(&self) -> Result<Value, FeedError> {
        let asked = self.0.ask(&Method::GET, PATH, Bytes::new());
        let answer = match tokio::time::timeout(PATIENCE, asked).await {
            Ok(answer) => answer?,
            Err(_) => return Err(FeedError::Silent),
        };
        match answer.status {
            200 if answer.body.is_object() => Ok(answer.body),
            200 | 404 => Err(FeedError::Unknown),
            _ => Err(FeedError::Refused(unexpected(&answer))),
        }
    }
}

fn on_one_line(text: &str) -> String {
    cleaned(text).replace('\n', " ")
}
