//! Why somebody may not come in.

use std::time::Duration;

use super::token::TokenError;
use super::{count, throttle};
use crate::live::{AuthMethod, Caller};

/// Which half of the gateway a route belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plane {
    /// What workers are asked.
    Data,
    /// The gateway itself.
    Control,
    /// The page that shows the gateway; who is turned away there is counted with [`Self::Control`].
    Console,
}

/// Somebody may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Denied {
    /// Where to.
    pub(crate) plane: Plane,
    /// Why not.
    pub(crate) why: Why,
}

/// Why somebody may not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// There is no credential.
    Missing,
    /// There are several, and they differ.
    Several,
    /// The credential opens nothing here.
    Key,
    /// It is a token, and no good.
    Token(TokenError),
    /// Too many credentials of this client were no good; for so long none is looked for.
    Throttled(Duration),
    /// Nothing is configured, and the client is not on this machine.
    Stranger,
    /// Nothing is configured, and the client on this machine asks for a host that is none of ours.
    Host,
    /// The console is asked for by a host that is none of ours.
    ForeignHost,
    /// A page of another origin asks for the console.
    ForeignPage,
    /// The console is asked for from elsewhere, and somebody may listen.
    Exposed,
    /// The credential is good, and is for inference only.
    NoRole,
    /// The credential is good, and is for reading only.
    ReadOnly,
}

/// A credential, or the lack of one, that does not open the door; and by what it was judged.
pub(super) type Refused = (AuthMethod, Why);

impl Plane {
    /// The word in metrics and realms.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Control | Self::Console => "control",
        }
    }

    /// Refuses `caller`, counts it, and remembers a credential that was wrong.
    pub(super) fn refuse(self, caller: &Caller, (method, mut why): Refused) -> Denied {
        if why.is_wrong_credential()
            && let Some(wait) = throttle::failed(caller.address)
        {
            why = Why::Throttled(wait);
        }
        count::decided(self, method, why.outcome());
        Denied { plane: self, why }
    }
}

impl Why {
    /// Whether somebody may have been guessing.
    fn is_wrong_credential(self) -> bool {
        match self {
            Self::Several | Self::Key => true,
            Self::Token(error) => error != TokenError::Unavailable,
            Self::Missing
            | Self::Throttled(_)
            | Self::Stranger
            | Self::Host
            | Self::ForeignHost
            | Self::ForeignPage
            | Self::Exposed
            | Self::NoRole
            | Self::ReadOnly => false,
        }
    }

    fn outcome(self) -> count::Outcome {
        match self {
            Self::Missing | Self::Stranger => count::Outcome::Missing,
            Self::Several | Self::Key => count::Outcome::Invalid,
            Self::Token(TokenError::Unavailable) => count::Outcome::Unavailable,
            Self::Token(_) => count::Outcome::Invalid,
            Self::Throttled(_) => count::Outcome::Throttled,
            Self::Host
            | Self::ForeignHost
            | Self::ForeignPage
            | Self::Exposed
            | Self::NoRole
            | Self::ReadOnly => count::Outcome::Forbidden,
        }
    }
}
