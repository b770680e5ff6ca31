//! How a request ended, in five words.

/// How a request ended, for who looks at all of them together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// It was answered.
    Ok = 0,
    /// The request was wrong.
    ClientError = 1,
    /// A limit kept it out.
    Limited = 2,
    /// The client went away.
    Cancelled = 3,
    /// The gateway or a worker failed.
    ServerError = 4,
}

impl Outcome {
    /// Every outcome, in the order of their numbers.
    pub const ALL: [Self; 5] = [
        Self::Ok,
        Self::ClientError,
        Self::Limited,
        Self::Cancelled,
        Self::ServerError,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ClientError => "client_error",
            Self::Limited => "limited",
            Self::Cancelled => "cancelled",
            Self::ServerError => "server_error",
        }
    }

    /// The outcome of an answer with `status` and the gateway's `code`, if any. A stream that began
    /// well and broke off has a good status and a code.
    pub fn of(status: u16, code: &str) -> Self {
        match (status, code) {
            (499, _) | (_, "client_closed_request") => Self::Cancelled,
            (429, _) | (_, "admission_queue_timeout") => Self::Limited,
            (400..=498, _) => Self::ClientError,
            (500.., _) => Self::ServerError,
            (_, "") => Self::Ok,
            (_, _) => Self::ServerError,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_has_its_word() {
        for (status, code, expected) in [
            (200, "", "ok"),
            (304, "", "ok"),
            (200, "client_closed_request", "cancelled"),
            (499, "client_closed_request", "cancelled"),
            (429, "", "limited"),
            (429, "tenant_rate_limit_exceeded", "limited"),
            (408, "admission_queue_timeout", "limited"),
            (408, "request_body_timeout", "client_error"),
            (404, "model_not_found", "client_error"),
            (503, "no_available_workers", "server_error"),
            (500, "", "server_error"),
            (200, "call_upstream_timeout", "server_error"),
        ] {
            assert_eq!(
                Outcome::of(status, code).as_str(),
                expected,
                "{status} {code}"
            );
        }
        let places = Outcome::ALL.map(|outcome| outcome as usize);
        assert_eq!(places, [0, 1, 2, 3, 4]);
    }
}
