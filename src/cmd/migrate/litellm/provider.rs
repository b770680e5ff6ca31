//! The providers that LiteLLM names, and which of them a worker can be.

/// What a provider is to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Provider {
    /// A vLLM server of one's own.
    Vllm,
    /// Something that speaks the OpenAI API, with the URL and the variable of the key that are
    /// meant where none are written.
    OpenAi(Option<&'static str>, Option<&'static str>),
    /// One whose API is another.
    Other,
}

/// The provider of this name; `None` if it is not known.
pub(super) fn named(name: &str) -> Option<Provider> {
    let api = |url, key| Provider::OpenAi(Some(url), Some(key));
    Some(match name {
        "hosted_vllm" | "vllm" => Provider::Vllm,
        "openai" | "text-completion-openai" => api("https://api.openai.com", "OPENAI_API_KEY"),
        "deepseek" => api("https://api.deepseek.com", "DEEPSEEK_API_KEY"),
        "groq" => api("https://api.groq.com/openai", "GROQ_API_KEY"),
        "mistral" => api("https://api.mistral.ai", "MISTRAL_API_KEY"),
        "openrouter" => api("https://openrouter.ai/api", "OPENROUTER_API_KEY"),
        "together_ai" => api("https://api.together.xyz", "TOGETHERAI_API_KEY"),
        "xai" => api("https://api.x.ai", "XAI_API_KEY"),
        "ollama" | "ollama_chat" => Provider::OpenAi(Some("http://localhost:11434"), None),
        "openai_like"
        | "custom_openai"
        | "litellm_proxy"
        | "lm_studio"
        | "llamafile"
        | "xinference"
        | "nvidia_nim"
        | "docker_model_runner" => Provider::OpenAi(None, None),
        "azure" | "azure_ai" | "azure_text" | "anthropic" | "bedrock" | "vertex_ai"
        | "vertex_ai_beta" | "gemini" | "cohere" | "cohere_chat" | "sagemaker"
        | "sagemaker_chat" | "huggingface" | "replicate" | "databricks" | "watsonx"
        | "cloudflare" | "ai21" | "palm" | "nlp_cloud" | "voyage" | "perplexity" | "github"
        | "github_copilot" | "fireworks_ai" | "cerebras" | "sambanova" | "deepinfra"
        | "jina_ai" | "oci" | "snowflake" | "predibase" | "triton" | "aleph_alpha" | "baseten"
        | "petals" | "clarifai" | "anyscale" | "elevenlabs" | "assemblyai" | "deepgram" => {
            Provider::Other
        }
        _ => return None,
    })
}

/// The provider that a model without one is of, by its name.
pub(super) fn of_model(model: &str) -> Option<&'static str> {
    const STARTS: &[(&str, &str)] = &[
        ("gpt-", "openai"),
        ("chatgpt-", "openai"),
        ("o1", "openai"),
        ("o3", "openai"),
        ("o4", "openai"),
        ("text-embedding-", "openai"),
        ("dall-e", "openai"),
        ("whisper", "openai"),
        ("tts-", "openai"),
        ("claude", "anthropic"),
        ("gemini", "gemini"),
        ("command", "cohere"),
    ];
    let found = STARTS.iter().find(|(start, _)| model.starts_with(start));
    found.map(|(_, provider)| *provider)
}
