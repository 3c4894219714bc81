//! Watching a relayed stream. Reads only what settle and the commit point need, and borrows all of it from the frame.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use crate::chat::Finish;
use crate::dialect::gemini::usage::Counts;
use crate::dialect::gemini::{error, finish};
use crate::dialect::{Sighting, Sniffer};
use crate::fault::Fault;
use crate::sse::Frame;

#[derive(Debug, Default)]
pub struct ResponseSniffer {
    content: bool,
    named: bool,
    blocked: bool,
    /// Bit sets of candidates seen, finished, and with calls. Gemini gives at most eight.
    seen: u64,
    finished: u64,
    calling: u64,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Response<'a> {
    #[serde(borrow)]
    pub candidates: Option<Vec<Candidate<'a>>>,
    prompt_feedback: Option<Feedback>,
    #[serde(borrow)]
    pub usage_metadata: Option<Counts<'a>>,
    #[serde(borrow)]
    model_version: Option<&'a RawValue>,
    #[serde(borrow)]
    response_id: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// A string that is only read when somebody asks; escapes are no reason to copy, or to fail on, every frame.
fn string(raw: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(raw?.get()).ok()
}

impl Response<'_> {
    pub fn id(&self) -> Option<String> {
        string(self.response_id)
    }

    pub fn model(&self) -> Option<String> {
        string(self.model_version)
    }

    /// The error reported in the answer's place.
    pub fn fault(&self) -> Option<Fault> {
        let error = serde_json::from_str(self.error?.get()).unwrap_or_default();
        Some(error::in_stream(&error))
    }

    /// The fault of an answer that is nothing but reasons for which it stopped.
    pub fn undone(&self) -> Option<Fault> {
        let candidates = self.candidates.as_deref().unwrap_or_default();
        let shows = candidates.iter().any(|candidate| candidate.parts().iter().any(Part::is_content));
        let native = string(candidates.first()?.finish_reason)?;
        finish::fault(finish::read(&native, false), &native, shows).filter(|_| !shows)
    }

    pub fn is_blocked(&self) -> bool {
        self.prompt_feedback.as_ref().is_some_and(|feedback| feedback.block_reason.is_some())
    }
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub struct Candidate<'a> {
    index: Option<u32>,
    #[serde(borrow)]
    content: Option<Content<'a>>,
    #[serde(borrow)]
    finish_reason: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Content<'a> {
    #[serde(borrow)]
    parts: Option<Vec<Part<'a>>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Part<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    function_call: Option<IgnoredAny>,
    inline_data: Option<IgnoredAny>,
    file_data: Option<IgnoredAny>,
    executable_code: Option<IgnoredAny>,
    code_execution_result: Option<IgnoredAny>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Feedback {
    block_reason: Option<IgnoredAny>,
}

impl Part<'_> {
    fn is_content(&self) -> bool {
        self.text.is_some_and(|text| text.get() != "\"\"")
            || self.function_call.is_some()
            || self.inline_data.is_some()
            || self.file_data.is_some()
            || self.executable_code.is_some()
            || self.code_execution_result.is_some()
    }
}

impl Candidate<'_> {
    fn parts(&self) -> &[Part<'_>] {
        self.content.as_ref().and_then(|content| content.parts.as_deref()).unwrap_or_default()
    }

    fn calls(&self) -> bool {
        self.parts().iter().any(|part| part.function_call.is_some())
    }

    /// Why it stopped, given that it called functions before or does so here.
    fn finish(&self, called: bool) -> Option<Finish> {
        let reason = string(self.finish_reason).filter(|reason| reason != finish::UNSPECIFIED)?;
        Some(finish::read(&reason, called || self.calls()))
    }

    pub fn finish_alone(&self) -> Option<Finish> {
        self.finish(false)
    }
}

impl Sniffer for ResponseSniffer {
    fn frame(&mut self, frame: &Frame<'_>) -> Sighting {
        let data = frame.data();
        let Ok(response) = serde_json::from_slice::<Response<'_>>(&data) else { return Sighting::default() };
        let mut sighting = Sighting::default();
        if let Some(fault) = response.fault() {
            return Sighting { fault: Some(fault), ..sighting };
        }
        for (position, candidate) in response.candidates.iter().flatten().enumerate() {
            let bit = 1_u64.checked_shl(candidate.index.unwrap_or(position as u32)).unwrap_or(0);
            self.seen |= bit;
            if candidate.calls() {
                self.calling |= bit;
            }
            if !self.content && candidate.parts().iter().any(Part::is_content) {
                self.content = true;
                sighting.content = true;
            }
            if let Some(reason) = candidate.finish(self.calling & bit != 0) {
                self.finished |= bit;
                sighting.finish = Some(reason);
            }
        }
        // Nothing was shown and all of them have stopped: the reason is all there is.
        if let (Some(Finish::Error), false, true) = (sighting.finish, self.content, self.seen == self.finished) {
            sighting.fault = response.undone();
        }
        if response.is_blocked() {
            self.blocked = true;
            sighting.finish = Some(Finish::ContentFilter);
        }
        if !self.named {
            self.named = true;
            sighting.model = response.model();
            sighting.id = response.id();
        }
        sighting.usage = response.usage_metadata.and_then(|counts| counts.usage());
        sighting
    }

    fn complete(&self) -> bool {
        self.blocked || (self.finished != 0 && self.seen == self.finished)
    }
}
