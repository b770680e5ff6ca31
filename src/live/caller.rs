//! Who asks, as far as the gateway knows.

use std::net::IpAddr;
use std::sync::Arc;

use crate::plan::{Identity, OperatorRole, TenantIx};

/// Who makes a call. It is known once the head has been judged; until then nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Against whom limits are counted.
    pub identity: Identity,
    /// The entry of the tenant in the plan of the call's snapshot, where there is one.
    pub tenant: Option<TenantIx>,
    /// By what it was recognised.
    pub method: AuthMethod,
    /// What it is called in the audit log: the id of a key, the subject of a token, `uid:0`.
    pub principal: Arc<str>,
    /// What it may do on the control plane.
    pub role: Option<OperatorRole>,
    /// The client's address: that of the peer, or what a trusted proxy says it is. `None` where the
    /// peer has none.
    pub address: Option<IpAddr>,
}

/// By what a caller was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthMethod {
    /// Nothing.
    None,
    /// A key.
    ApiKey,
    /// A token.
    Jwt,
    /// The user of the process at the other end of a socket.
    Peer,
}

impl AuthMethod {
    /// Every method.
    pub const ALL: [Self; 4] = [Self::None, Self::ApiKey, Self::Jwt, Self::Peer];

    /// The word in logs and metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::ApiKey => "api_key",
            Self::Jwt => "jwt",
            Self::Peer => "peer",
        }
    }
}

impl Default for Caller {
    fn default() -> Self {
        static NOBODY: std::sync::LazyLock<Arc<str>> =
            std::sync::LazyLock::new(|| "unauthenticated".into());
        Self {
            identity: Identity::Anonymous,
            tenant: None,
            method: AuthMethod::None,
            principal: Arc::clone(&NOBODY),
            role: None,
            address: None,
        }
    }
}
