//! The table of providers. Holds facts only; a quirk that departs from the plain server says why.
//!
//! OpenAI-like base URLs end in the version, as the provider's own documentation has them; the dialects' paths may
//! repeat it (`join_url` keeps one).

use super::AuthScheme::{self, Bearer};
use super::{Elsewhere, EnvBase, Field, Row};
use crate::chat::Effort;
use crate::dialect::{Prefill, Quirks, ReasoningStyle};
use crate::json::THOUGHTS;

const CHAT: &str = "openai_chat";
const RESPONSES: &str = "openai_responses";
const ANTHROPIC: &str = "anthropic";
const GEMINI: &str = "gemini";

const API_KEY: AuthScheme = AuthScheme::Header { name: "api-key", prefix: "" };
const X_API_KEY: AuthScheme = AuthScheme::Header { name: "x-api-key", prefix: "" };
const X_GOOG_API_KEY: AuthScheme = AuthScheme::Header { name: "x-goog-api-key", prefix: "" };

/// What every server of Anthropic's dialect may ask for; the others ignore it.
const VERSION: &[(&str, &str)] = &[("anthropic-version", "2023-06-01")];

/// Names that a maker's claim would cover although the maker serves no such model.
pub(super) const UNOWNED: &[&str] = &["gpt-oss", "gpt-j", "gpt-neo", "gpt-neox"];

/// A host that speaks plain OpenAI chat at one address.
const fn plain(name: &'static str, title: &'static str, base_url: &'static str, env: &'static [&'static str]) -> Row {
    Row {
        name,
        title,
        dialects: &[CHAT],
        base_url: Some(base_url),
        elsewhere: &[],
        auth: Bearer,
        env,
        env_auth: &[],
        env_base: None,
        fields: &[],
        headers: &[],
        quirks: Quirks::NONE,
        owns: &[],
        otel: None,
        keyless: false,
        prices: None,
    }
}

/// A server that people run themselves; it needs no key, but takes one that is configured.
const fn local(name: &'static str, title: &'static str, base_url: &'static str, env: &'static [&'static str]) -> Row {
    Row { keyless: true, ..plain(name, title, base_url, env) }
}

/// A dialect at an address of its own, with the row's way to send the key.
const fn at(dialect: &'static str, base_url: &'static str) -> Elsewhere {
    Elsewhere { dialect, base_url, auth: None, quirks: None }
}

/// OpenAI's own departures from what the field calls OpenAI-compatible.
const OPENAI: Quirks = Quirks {
    // `max_tokens` is refused by its reasoning models.
    max_completion_tokens: true,
    verbosity: true,
    prompt_cache_key: true,
    service_tier: true,
    store: true,
    speech: true,
    custom_tools: true,
    developer_role: true,
    refuses_thoughts: THOUGHTS,
    ..Quirks::NONE
};

/// The words of effort of OpenAI's open weights.
const GPT_OSS: &[Effort] = &[Effort::Low, Effort::Medium, Effort::High];

/// What hosts refuse that show reasoning as `reasoning`, and take that back.
const OTHERS_THOUGHTS: &[&str] = &["reasoning_content", "reasoning_details", "extra_content"];

/// Servers built on an inference engine that switches reasoning in the chat template.
const TEMPLATE: Quirks = Quirks { reasoning: ReasoningStyle::Template, ..Quirks::NONE };

const RESOURCE: Field =
    Field { name: "resource", env: &["AZURE_OPENAI_RESOURCE", "AZURE_RESOURCE_NAME"], default: None };
const AZURE_ENV: &[&str] = &["AZURE_OPENAI_API_KEY", "AZURE_API_KEY", "AZURE_OPENAI_AD_TOKEN"];
/// Microsoft Entra ID tokens go where OpenAI's keys go.
const AZURE_ENV_AUTH: &[(&str, AuthScheme)] = &[("AZURE_OPENAI_AD_TOKEN", Bearer)];

/// Every provider: makers first, then clouds, then hosts, then servers at home.
pub const PROVIDERS: &[Row] = &[
    Row {
        dialects: &[CHAT, RESPONSES],
        quirks: OPENAI,
        owns: &[
            "gpt-",
            "chatgpt-",
            "o1",
            "o3",
            "o4",
            "text-embedding-3-",
            "text-embedding-ada-",
            "codex-",
            "computer-use",
            "omni-moderation",
            "davinci-002",
            "babbage-002",
            "dall-e-",
            "tts-1",
            "whisper-1",
        ],
        ..plain("openai", "OpenAI", "https://api.openai.com/v1", &["OPENAI_API_KEY"])
    },
    Row {
        dialects: &[ANTHROPIC],
        headers: VERSION,
        auth: X_API_KEY,
        // OAuth and gateway tokens; its SDKs send them as a bearer too.
        env_auth: &[("ANTHROPIC_AUTH_TOKEN", Bearer)],
        owns: &["claude-"],
        ..plain("anthropic", "Anthropic", "https://api.anthropic.com", &["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"])
    },
    Row {
        dialects: &[GEMINI, CHAT],
        elsewhere: &[Elsewhere {
            dialect: CHAT,
            base_url: "https://generativelanguage.googleapis.com/v1beta/openai",
            auth: Some(Bearer),
            quirks: None,
        }],
        auth: X_GOOG_API_KEY,
        owns: &["gemini-", "models/gemini-"],
        otel: Some("gcp.gemini"),
        ..plain(
            "gemini",
            "Google Gemini API",
            "https://generativelanguage.googleapis.com/v1beta",
            &["GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GENERATIVE_AI_API_KEY"],
        )
    },
    Row {
        quirks: Quirks {
            // Others are a 400, also in results.
            short_call_ids: true,
            // "Unexpected role 'user' after role 'tool'" is a 400.
            assistant_after_tools: true,
            // Streams state usage in their last chunk without being asked; unknown fields are a 422.
            stream_usage: false,
            // Only some models can be asked, and only for `none` or `high`.
            reasoning: ReasoningStyle::None,
            prefill: Prefill::Prefix,
            refuses: &[
                "user",
                "seed",
                "logprobs",
                "top_logprobs",
                "logit_bias",
                "store",
                "service_tier",
                "modalities",
                "audio",
                "verbosity",
                "prompt_cache_key",
                "safety_identifier",
                "web_search_options",
            ],
            refuses_thoughts: THOUGHTS,
            ..Quirks::NONE
        },
        owns: &[
            "mistral-",
            "codestral",
            "ministral-",
            "magistral-",
            "pixtral-",
            "devstral-",
            "voxtral-",
            "open-mistral-",
            "open-mixtral-",
        ],
        otel: Some("mistral_ai"),
        ..plain("mistral", "Mistral AI", "https://api.mistral.ai/v1", &["MISTRAL_API_KEY"])
    },
    Row {
        quirks: Quirks {
            // Knows `none` and `high` only.
            reasoning: ReasoningStyle::None,
            // Named as unsupported in its compatibility guide.
            refuses: &[
                "n",
                "store",
                "metadata",
                "logit_bias",
                "logprobs",
                "top_logprobs",
                "modalities",
                "prediction",
                "audio",
                "service_tier",
                "parallel_tool_calls",
            ],
            ..Quirks::NONE
        },
        owns: &["command-", "embed-", "c4ai-aya-"],
        ..plain(
            "cohere",
            "Cohere (OpenAI-compatible endpoint)",
            "https://api.cohere.ai/compatibility/v1",
            &["COHERE_API_KEY", "CO_API_KEY"],
        )
    },
    Row {
        dialects: &[CHAT, ANTHROPIC],
        headers: VERSION,
        elsewhere: &[at(ANTHROPIC, "https://api.deepseek.com/anthropic")],
        quirks: Quirks {
            reasoning: ReasoningStyle::Thinking,
            // Has JSON mode, but no schemas.
            json_schema: false,
            ..Quirks::NONE
        },
        owns: &["deepseek-"],
        ..plain("deepseek", "DeepSeek", "https://api.deepseek.com/v1", &["DEEPSEEK_API_KEY"])
    },
    Row {
        dialects: &[CHAT, RESPONSES],
        quirks: Quirks {
            max_completion_tokens: true,
            // Its reasoning models, by now all of them, answer 400 to penalties. It speaks at an address of its own.
            refuses: &["presence_penalty", "frequency_penalty", "logit_bias", "modalities", "audio"],
            ..Quirks::NONE
        },
        owns: &["grok-"],
        otel: Some("x_ai"),
        ..plain("xai", "xAI", "https://api.x.ai/v1", &["XAI_API_KEY"])
    },
    Row {
        // The Sonar chat endpoint lives beside the versioned API; new accounts get the Agent API alone.
        dialects: &[RESPONSES, CHAT],
        elsewhere: &[Elsewhere {
            dialect: CHAT,
            base_url: "https://api.perplexity.ai",
            auth: None,
            quirks: Some(Quirks {
                // Sonar models search by themselves: no tools of the caller's, one answer, no sampling internals.
                refuses: &[
                    "tools",
                    "tool_choice",
                    "parallel_tool_calls",
                    "n",
                    "seed",
                    "logprobs",
                    "top_logprobs",
                    "logit_bias",
                ],
                ..Quirks::NONE
            }),
        }],
        owns: &["sonar"],
        ..plain("perplexity", "Perplexity", "https://api.perplexity.ai/v1", &["PERPLEXITY_API_KEY"])
    },
    Row {
        dialects: &[CHAT, ANTHROPIC],
        headers: VERSION,
        elsewhere: &[at(ANTHROPIC, "https://api.moonshot.ai/anthropic")],
        quirks: Quirks {
            reasoning: ReasoningStyle::Thinking,
            // JSON mode only.
            json_schema: false,
            prefill: Prefill::Partial,
            // Its models from K2.5 on, by now nearly all, answer 400 to any value but one of each, which is the default.
            refuses: &["temperature", "top_p", "presence_penalty", "frequency_penalty"],
            ..Quirks::NONE
        },
        owns: &["kimi-", "moonshot-"],
        otel: Some("moonshot_ai"),
        ..plain("moonshot", "Moonshot AI (Kimi)", "https://api.moonshot.ai/v1", &["MOONSHOT_API_KEY"])
    },
    Row {
        dialects: &[CHAT, ANTHROPIC],
        headers: VERSION,
        elsewhere: &[at(ANTHROPIC, "https://api.z.ai/api/anthropic")],
        quirks: GLM,
        owns: &["glm-"],
        ..plain("zai", "Z.AI", "https://api.z.ai/api/paas/v4", &["ZAI_API_KEY"])
    },
    Row {
        dialects: &[CHAT, ANTHROPIC],
        headers: VERSION,
        elsewhere: &[at(ANTHROPIC, "https://open.bigmodel.cn/api/anthropic")],
        quirks: GLM,
        ..plain(
            "zhipu",
            "Zhipu AI (BigModel, China)",
            "https://open.bigmodel.cn/api/paas/v4",
            &["ZHIPUAI_API_KEY", "ZHIPU_API_KEY"],
        )
    },
    Row {
        dialects: &[CHAT, RESPONSES, ANTHROPIC],
        headers: VERSION,
        elsewhere: &[at(ANTHROPIC, "https://dashscope-intl.aliyuncs.com/apps/anthropic")],
        quirks: Quirks {
            reasoning: ReasoningStyle::Enable,
            // Explicit context caching is marked as Anthropic does.
            cache_control: true,
            prefill: Prefill::Partial,
            ..Quirks::NONE
        },
        owns: &["qwen-", "qwen3-", "qwen3.5-", "qwen3.6-", "qwen3.7-", "qwen3.8-", "qwq-", "qvq-"],
        otel: Some("alibaba_cloud"),
        ..plain(
            "dashscope",
            "Alibaba Cloud Model Studio (DashScope)",
            "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
            &["DASHSCOPE_API_KEY"],
        )
    },
    Row {
        dialects: &[CHAT, ANTHROPIC],
        headers: VERSION,
        elsewhere: &[at(ANTHROPIC, "https://api.minimax.io/anthropic")],
        quirks: Quirks {
            // Its models always reason.
            reasoning: ReasoningStyle::None,
            json_schema: false,
            ..Quirks::NONE
        },
        owns: &["minimax-"],
        ..plain("minimax", "MiniMax", "https://api.minimax.io/v1", &["MINIMAX_API_KEY"])
    },
    Row {
        dialects: &[CHAT, RESPONSES],
        quirks: Quirks { reasoning: ReasoningStyle::Thinking, ..Quirks::NONE },
        owns: &["doubao-"],
        ..plain("volcengine", "Volcengine Ark", "https://ark.cn-beijing.volces.com/api/v3", &["ARK_API_KEY"])
    },
    Row {
        dialects: &[CHAT, RESPONSES],
        owns: &["muse-"],
        ..plain("meta", "Meta Model API", "https://api.meta.ai/v1", &["META_MODEL_API_KEY"])
    },
    Row { owns: &["jamba-"], ..plain("ai21", "AI21 Labs", "https://api.ai21.com/studio/v1", &["AI21_API_KEY"]) },
    Row { owns: &["solar-"], ..plain("upstage", "Upstage", "https://api.upstage.ai/v1", &["UPSTAGE_API_KEY"]) },
    Row { owns: &["step-"], ..plain("stepfun", "StepFun", "https://api.stepfun.ai/v1", &["STEPFUN_API_KEY"]) },
    Row {
        owns: &["mercury"],
        ..plain("inception", "Inception", "https://api.inceptionlabs.ai/v1", &["INCEPTION_API_KEY"])
    },
    Row {
        owns: &["mimo-"],
        ..plain("xiaomi", "Xiaomi MiMo", "https://api.xiaomimimo.com/v1", &["XIAOMI_API_KEY", "MIMO_API_KEY"])
    },
    plain("arcee", "Arcee AI", "https://api.arcee.ai/api/v1", &["ARCEE_API_KEY"]),
    plain("nova", "Amazon Nova", "https://api.nova.amazon.com/v1", &["NOVA_API_KEY"]),
    // Azure's two forms are two rows: the older one names a deployment in the path and a version in the query, the
    // newer one is OpenAI's own API under another host.
    Row {
        auth: API_KEY,
        env_auth: AZURE_ENV_AUTH,
        env_base: Some(EnvBase {
            var: "AZURE_OPENAI_ENDPOINT",
            suffix: "/openai/deployments/{model}?api-version={api_version}",
            port: None,
        }),
        fields: &[
            RESOURCE,
            Field {
                name: "api_version",
                env: &["OPENAI_API_VERSION", "AZURE_OPENAI_API_VERSION"],
                // The last dated version: the first stable one knows neither `developer` nor `reasoning_effort`.
                default: Some("2025-04-01-preview"),
            },
        ],
        quirks: OPENAI,
        otel: Some("azure.ai.openai"),
        ..plain(
            "azure",
            "Azure OpenAI (deployments)",
            "https://{resource}.openai.azure.com/openai/deployments/{model}?api-version={api_version}",
            AZURE_ENV,
        )
    },
    Row {
        dialects: &[CHAT, RESPONSES, ANTHROPIC],
        headers: VERSION,
        elsewhere: &[Elsewhere {
            dialect: ANTHROPIC,
            base_url: "https://{resource}.services.ai.azure.com/anthropic",
            auth: Some(X_API_KEY),
            quirks: None,
        }],
        auth: API_KEY,
        env_auth: AZURE_ENV_AUTH,
        env_base: Some(EnvBase { var: "AZURE_OPENAI_ENDPOINT", suffix: "/openai/v1", port: None }),
        fields: &[RESOURCE],
        quirks: OPENAI,
        otel: Some("azure.ai.openai"),
        prices: Some("azure"),
        ..plain("azure_v1", "Azure OpenAI (v1)", "https://{resource}.openai.azure.com/openai/v1", AZURE_ENV)
    },
    Row {
        dialects: &[GEMINI, CHAT],
        elsewhere: &[at(
            CHAT,
            "https://{region}-aiplatform.googleapis.com/v1/projects/{project}/locations/{region}/endpoints/openapi",
        )],
        fields: &[
            Field { name: "project", env: &["GOOGLE_CLOUD_PROJECT", "GOOGLE_VERTEX_PROJECT"], default: None },
            Field {
                name: "region",
                env: &["GOOGLE_CLOUD_LOCATION", "GOOGLE_VERTEX_LOCATION"],
                default: Some("global"),
            },
        ],
        otel: Some("gcp.vertex_ai"),
        ..plain(
            "vertex",
            "Google Vertex AI (access token)",
            "https://{region}-aiplatform.googleapis.com/v1/projects/{project}/locations/{region}/publishers/google",
            &["CLOUDSDK_AUTH_ACCESS_TOKEN"],
        )
    },
    Row {
        dialects: &[CHAT, RESPONSES, ANTHROPIC],
        headers: VERSION,
        elsewhere: &[Elsewhere {
            dialect: ANTHROPIC,
            base_url: "https://bedrock-mantle.{region}.api.aws/anthropic",
            auth: Some(X_API_KEY),
            quirks: None,
        }],
        fields: &[Field { name: "region", env: &["AWS_REGION", "AWS_DEFAULT_REGION"], default: None }],
        otel: Some("aws.bedrock"),
        ..plain(
            "bedrock",
            "Amazon Bedrock (OpenAI-compatible endpoint, API key)",
            "https://bedrock-mantle.{region}.api.aws/v1",
            &["AWS_BEARER_TOKEN_BEDROCK"],
        )
    },
    Row {
        dialects: &[CHAT, RESPONSES],
        fields: &[Field { name: "account", env: &["CLOUDFLARE_ACCOUNT_ID"], default: None }],
        ..plain(
            "cloudflare",
            "Cloudflare Workers AI",
            "https://api.cloudflare.com/client/v4/accounts/{account}/ai/v1",
            &["CLOUDFLARE_API_TOKEN", "CLOUDFLARE_API_KEY"],
        )
    },
    Row {
        fields: &[Field { name: "resource", env: &["DATABRICKS_HOST"], default: None }],
        ..plain("databricks", "Databricks", "https://{resource}/serving-endpoints", &["DATABRICKS_TOKEN"])
    },
    // GITHUB_TOKEN is set in many places that mean no model by it, so it is not read.
    plain("github", "GitHub Models", "https://models.github.ai/inference", &["GITHUB_MODELS_TOKEN"]),
    Row {
        dialects: &[CHAT, RESPONSES, ANTHROPIC],
        headers: VERSION,
        quirks: Quirks {
            reasoning: ReasoningStyle::Object,
            cache_control: true,
            developer_role: true,
            prefill: Prefill::Plain,
            ..Quirks::NONE
        },
        ..plain("openrouter", "OpenRouter", "https://openrouter.ai/api/v1", &["OPENROUTER_API_KEY"])
    },
    Row {
        dialects: &[CHAT, RESPONSES, ANTHROPIC],
        headers: VERSION,
        quirks: Quirks { reasoning: ReasoningStyle::Object, cache_control: true, developer_role: true, ..Quirks::NONE },
        ..plain(
            "vercel",
            "Vercel AI Gateway",
            "https://ai-gateway.vercel.sh/v1",
            &["AI_GATEWAY_API_KEY", "VERCEL_OIDC_TOKEN"],
        )
    },
    Row {
        dialects: &[CHAT, RESPONSES],
        quirks: Quirks {
            max_completion_tokens: true,
            // Qwen knows `none` and `default` here; of the others only these can be told an effort, which is a 400 else.
            efforts: &[("qwen3", &[Effort::None]), ("gpt-oss", GPT_OSS), ("", &[])],
            // Each is a 400, as its compatibility guide says. It speaks at an address of its own.
            refuses: &["logprobs", "top_logprobs", "logit_bias", "modalities", "audio"],
            refuses_thoughts: OTHERS_THOUGHTS,
            ..Quirks::NONE
        },
        ..plain("groq", "Groq", "https://api.groq.com/openai/v1", &["GROQ_API_KEY"])
    },
    plain("together", "Together AI", "https://api.together.xyz/v1", &["TOGETHER_API_KEY", "TOGETHER_AI_API_KEY"]),
    Row {
        dialects: &[CHAT, RESPONSES, ANTHROPIC],
        headers: VERSION,
        ..plain("fireworks", "Fireworks AI", "https://api.fireworks.ai/inference/v1", &["FIREWORKS_API_KEY"])
    },
    Row {
        quirks: Quirks {
            max_completion_tokens: true,
            // Only user messages may come in parts.
            flat_content: true,
            // Each is a 400.
            refuses: &["frequency_penalty", "presence_penalty", "logit_bias", "modalities", "audio"],
            refuses_thoughts: OTHERS_THOUGHTS,
            ..Quirks::NONE
        },
        ..plain("cerebras", "Cerebras", "https://api.cerebras.ai/v1", &["CEREBRAS_API_KEY"])
    },
    plain("sambanova", "SambaNova", "https://api.sambanova.ai/v1", &["SAMBANOVA_API_KEY"]),
    Row {
        quirks: TEMPLATE,
        ..plain("nvidia", "NVIDIA NIM", "https://integrate.api.nvidia.com/v1", &["NVIDIA_API_KEY"])
    },
    plain("nebius", "Nebius Token Factory", "https://api.tokenfactory.nebius.com/v1", &["NEBIUS_API_KEY"]),
    Row {
        dialects: &[CHAT, ANTHROPIC],
        headers: VERSION,
        elsewhere: &[at(ANTHROPIC, "https://api.novita.ai/anthropic")],
        ..plain("novita", "Novita AI", "https://api.novita.ai/openai/v1", &["NOVITA_API_KEY"])
    },
    plain("hyperbolic", "Hyperbolic", "https://api.hyperbolic.xyz/v1", &["HYPERBOLIC_API_KEY"]),
    plain(
        "deepinfra",
        "DeepInfra",
        "https://api.deepinfra.com/v1/openai",
        &["DEEPINFRA_API_KEY", "DEEPINFRA_TOKEN", "DEEPINFRA_API_TOKEN"],
    ),
    Row {
        dialects: &[CHAT, ANTHROPIC],
        headers: VERSION,
        quirks: Quirks { reasoning: ReasoningStyle::Enable, ..Quirks::NONE },
        ..plain("siliconflow", "SiliconFlow", "https://api.siliconflow.com/v1", &["SILICONFLOW_API_KEY"])
    },
    Row {
        dialects: &[CHAT, RESPONSES],
        ..plain(
            "huggingface",
            "Hugging Face Inference Providers",
            "https://router.huggingface.co/v1",
            &["HF_TOKEN", "HUGGINGFACE_API_KEY"],
        )
    },
    plain("baseten", "Baseten", "https://inference.baseten.co/v1", &["BASETEN_API_KEY"]),
    plain("featherless", "Featherless", "https://api.featherless.ai/v1", &["FEATHERLESS_API_KEY"]),
    plain("inference_net", "Inference.net", "https://api.inference.net/v1", &["INFERENCE_API_KEY"]),
    plain("friendli", "FriendliAI", "https://api.friendli.ai/serverless/v1", &["FRIENDLI_TOKEN"]),
    plain("scaleway", "Scaleway", "https://api.scaleway.ai/v1", &["SCALEWAY_API_KEY"]),
    plain(
        "ovhcloud",
        "OVHcloud AI Endpoints",
        "https://oai.endpoints.kepler.ai.cloud.ovh.net/v1",
        &["OVHCLOUD_API_KEY", "OVH_AI_ENDPOINTS_ACCESS_TOKEN"],
    ),
    plain("digitalocean", "DigitalOcean", "https://inference.do-ai.run/v1", &["DIGITALOCEAN_ACCESS_TOKEN"]),
    plain("wandb", "Weights & Biases", "https://api.inference.wandb.ai/v1", &["WANDB_API_KEY"]),
    plain("chutes", "Chutes", "https://llm.chutes.ai/v1", &["CHUTES_API_KEY"]),
    plain("venice", "Venice", "https://api.venice.ai/api/v1", &["VENICE_API_KEY"]),
    plain("io_net", "io.net", "https://api.intelligence.io.solutions/api/v1", &["IOINTELLIGENCE_API_KEY"]),
    plain("requesty", "Requesty", "https://router.requesty.ai/v1", &["REQUESTY_API_KEY"]),
    plain("poe", "Poe", "https://api.poe.com/v1", &["POE_API_KEY"]),
    Row {
        dialects: &[CHAT, RESPONSES, ANTHROPIC],
        headers: VERSION,
        ..plain("ollama_cloud", "Ollama Cloud", "https://ollama.com/v1", &["OLLAMA_API_KEY"])
    },
    Row {
        dialects: &[CHAT, RESPONSES, ANTHROPIC],
        headers: VERSION,
        env_base: Some(EnvBase { var: "OLLAMA_HOST", suffix: "/v1", port: Some(11434) }),
        ..local("ollama", "Ollama", "http://127.0.0.1:11434/v1", &[])
    },
    Row {
        dialects: &[CHAT, RESPONSES, ANTHROPIC],
        headers: VERSION,
        quirks: Quirks { prefill: Prefill::Continue, ..TEMPLATE },
        ..local("vllm", "vLLM", "http://127.0.0.1:8000/v1", &["VLLM_API_KEY"])
    },
    Row {
        dialects: &[CHAT, RESPONSES, ANTHROPIC],
        headers: VERSION,
        quirks: Quirks { prefill: Prefill::Plain, ..TEMPLATE },
        ..local("llamacpp", "llama.cpp server", "http://127.0.0.1:8080/v1", &["LLAMA_API_KEY"])
    },
    Row {
        dialects: &[CHAT, RESPONSES, ANTHROPIC],
        headers: VERSION,
        ..local("lmstudio", "LM Studio", "http://127.0.0.1:1234/v1", &["LMSTUDIO_API_KEY", "LM_API_TOKEN"])
    },
    Row {
        dialects: &[CHAT, RESPONSES, ANTHROPIC],
        headers: VERSION,
        quirks: Quirks { prefill: Prefill::Continue, ..TEMPLATE },
        ..local("sglang", "SGLang", "http://127.0.0.1:30000/v1", &["SGLANG_API_KEY"])
    },
    Row {
        dialects: &[CHAT, RESPONSES, ANTHROPIC],
        headers: VERSION,
        ..local("litellm", "LiteLLM proxy", "http://127.0.0.1:4000/v1", &["LITELLM_API_KEY"])
    },
    Row {
        dialects: &[CHAT, RESPONSES, ANTHROPIC, GEMINI],
        headers: VERSION,
        // Answers from inside this process: there is nothing to connect to and nothing to pay.
        base_url: None,
        auth: AuthScheme::None,
        quirks: Quirks { refuses_thoughts: &[], ..OPENAI },
        owns: &["mock"],
        ..local("mock", "Built-in mock", "", &[])
    },
];

/// GLM models, in both of the maker's houses.
const GLM: Quirks = Quirks {
    reasoning: ReasoningStyle::Thinking,
    // JSON mode only.
    json_schema: false,
    ..Quirks::NONE
};
