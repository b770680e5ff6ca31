//! The inference endpoints: their paths and the words they go by in metrics.

/// One inference endpoint. Aliases of a path are the same endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`
    Chat,
    /// `POST /v1/completions`
    Completions,
    /// `POST /generate`
    Generate,
    /// `POST /v1/responses`
    Responses,
    /// `POST /v1/embeddings`
    Embeddings,
    /// `POST /v1/rerank`, `POST /rerank`
    Rerank,
    /// `POST /v1/classify`
    Classify,
}

impl Endpoint {
    /// Every endpoint, in the order of [`Endpoint::index`].
    pub const ALL: [Self; 7] = [
        Self::Chat,
        Self::Completions,
        Self::Generate,
        Self::Responses,
        Self::Embeddings,
        Self::Rerank,
        Self::Classify,
    ];

    /// Position in [`Endpoint::ALL`].
    pub fn index(self) -> usize {
        self as usize
    }

    /// The `endpoint` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completions => "completions",
            Self::Generate => "generate",
            Self::Responses => "responses",
            Self::Embeddings => "embeddings",
            Self::Rerank => "rerank",
            Self::Classify => "classify",
        }
    }

    /// The canonical path, which is also the path asked of a worker.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Generate => "/generate",
            Self::Responses => "/v1/responses",
            Self::Embeddings => "/v1/embeddings",
            Self::Rerank => "/v1/rerank",
            Self::Classify => "/v1/classify",
        }
    }

    /// Prefix of request ids that the gateway makes.
    pub fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl-",
            Self::Completions => "cmpl-",
            Self::Generate => "gnt-",
            Self::Responses => "resp-",
            Self::Embeddings | Self::Rerank | Self::Classify => "req-",
        }
    }

    /// Whether the answer is generated, as only a worker that generates can, or a pair of which one
    /// does.
    pub fn generates(self) -> bool {
        !matches!(self, Self::Embeddings | Self::Rerank | Self::Classify)
    }

    /// Whether a failed answer of a worker may be replaced by another attempt. A response that a
    /// worker may have begun to store is asked for once.
    pub fn retries_answers(self) -> bool {
        !matches!(self, Self::Responses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_in_index_order() {
        for (index, endpoint) in Endpoint::ALL.into_iter().enumerate() {
            assert_eq!(endpoint.index(), index);
        }
    }
}
