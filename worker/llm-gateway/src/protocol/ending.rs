//! How an answer ended, by the word that its provider has for it. Pure.
//!
//! One list for all dialects: routers and compatible servers pass on the words of other providers.

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Ending {
    /// The LLM has said all that it had to say.
    Whole,
    /// With a call of a tool: the agent has something to do, and will come back.
    ToolCall,
    /// At a limit of its output.
    OutputLimit,
    /// The context is full.
    ContextFull,
    /// A filter withheld it or broke it off, or the LLM refused.
    Filtered,
    /// The provider gave up.
    GaveUp,
    /// Anything else: a pause, a tool call that cannot be read, an unknown word.
    Unfinished,
}

impl Ending {
    /// Whether nothing of the answer is missing.
    pub(super) fn is_whole(self) -> bool {
        match self {
            Self::Whole | Self::ToolCall => true,
            Self::OutputLimit
            | Self::ContextFull
            | Self::Filtered
            | Self::GaveUp
            | Self::Unfinished => false,
        }
    }

    /// Servers that leave the reason out, or leave it empty (KoboldCpp, SGLang, Ollama), do so with whole answers.
    pub(in super::super) fn of(reason: Option<&str>) -> Self {
        // `content_filter: RECITATION` is said by Gemini.
        let word = reason
            .unwrap_or_default()
            .split(':')
            .next()
            .unwrap_or_default();
        let letters = word.chars().filter(char::is_ascii_alphanumeric);
        match letters
            .map(|letter| letter.to_ascii_lowercase())
            .collect::<String>()
            .as_str()
        {
            "" | "null" => Self::Whole,
            "stop" | "stopsequence" | "stoptoken" | "eos" | "eostoken" | "endturn"
            | "endoftext" | "complete" | "completed" => Self::Whole,
            "tooluse" | "toolcall" | "toolcalls" | "functioncall" => Self::ToolCall,
            "length" | "maxtokens" | "maxoutputtokens" | "maxcompletiontokens" | "maxlength" => {
                Self::OutputLimit
            }
            "modellength" | "modelcontextwindowexceeded" | "contextlengthexceeded" => {
                Self::ContextFull
            }
            "contentfilter"
            | "contentfiltered"
            | "safety"
            | "imagesafety"
            | "recitation"
            | "blocklist"
            | "prohibitedcontent"
            | "spii"
            | "language"
            | "sensitive"
            | "refusal"
            | "guardrailintervened"
            | "errortoxic" => Self::Filtered,
            "error"
            | "abort"
            | "aborted"
            | "cancelled"
            | "canceled"
            | "failed"
            | "timeout"
            | "networkerror"
            | "insufficientsystemresource"
            | "overloaded"
            | "unavailable" => Self::GaveUp,
            _other => Self::Unfinished,
        }
    }
}
