//! How an answer ended, from the provider's word for it. Pure.
//!
//! One list serves all dialects, because routers and compatible servers pass on the words of other
//! providers.

/// How an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The LLM has finished its answer.
    Whole,
    /// The answer calls a tool. The agent runs it and comes back.
    ToolCall,
    /// The answer was cut off at a limit of its output.
    OutputLimit,
    /// The context is full.
    ContextFull,
    /// A filter withheld or cut the answer, or the LLM refused.
    Filtered,
    /// The provider gave up.
    GaveUp,
    /// Anything else: a pause, a tool call that cannot be read, an unknown word.
    Unfinished,
}

impl Ending {
    /// Whether the answer is complete.
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

    /// Reads the provider's word. Servers that send no word, or an empty one (KoboldCpp, SGLang,
    /// Ollama), do so with whole answers.
    pub(crate) fn of(reason: Option<&str>) -> Self {
        // Gemini sends `content_filter: RECITATION`.
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
