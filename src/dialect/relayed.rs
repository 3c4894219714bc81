//! A stream that is relayed byte for byte, worked off frame by frame: what each stretch of it shows, beside its bytes.
//!
//! Pure, so that a stream which several clients hear is worked off once and handed to all of them. Changes no byte.

use std::sync::Arc;

use bytes::Bytes;

use super::{Sighting, Sniffer};
use crate::fault::{Fault, Kind};
use crate::sse::{Frame, Scanner};

/// Neighbouring frames that go on together. A few words, since nearly all show nothing and each is moved several times.
#[derive(Debug, Clone, Default)]
pub struct Stretch {
    pub bytes: Bytes,
    /// How many of them came with or after the first content.
    pub frames: u32,
    /// How many came before it.
    pub early: u16,
    /// The first content is among them.
    pub content: bool,
    /// The stream may end after them.
    pub complete: bool,
    /// What else they show together. A fault, and usage that somebody may change or hide, has a stretch of its own.
    pub told: Option<Arc<Sighting>>,
}

/// Works a stream off.
pub struct Relayed {
    scanner: Scanner,
    sniffer: Box<dyn Sniffer>,
    /// Every frame with usage is a stretch of its own, not only those that hold nothing else.
    usage_apart: bool,
    /// Content has been seen.
    content: bool,
    complete: bool,
    /// What was found behind the stretch given last: what the last scanned frame shows, or why there is no more.
    next: Option<Box<Result<Sighting, Fault>>>,
}

impl Relayed {
    pub fn new(sniffer: Box<dyn Sniffer>) -> Self {
        Relayed { scanner: Scanner::new(), sniffer, usage_apart: false, content: false, complete: false, next: None }
    }

    /// Refuses longer frames than this; before the first bytes.
    #[must_use]
    pub fn bounded(mut self, max_frame_bytes: usize) -> Self {
        self.scanner = Scanner::bounded(max_frame_bytes);
        self
    }

    /// Gives every frame with usage by itself.
    #[must_use]
    pub fn with_usage_apart(mut self) -> Self {
        self.usage_apart = true;
        self
    }

    /// The next bytes. All stretches of those before must have been taken.
    pub fn push(&mut self, piece: Bytes) {
        self.scanner.push(piece);
    }

    /// No more bytes come. A last event may lack its empty line; the client's parser gets one.
    pub fn close(&mut self) {
        if let Some(rest) = self.scanner.rest() {
            let mut whole = rest.to_vec();
            whole.extend_from_slice(b"\n\n");
            self.scanner.push(whole.into());
        }
    }

    /// The next stretch of the whole frames at hand.
    ///
    /// # Errors
    /// A frame is not JSON, or too long. What came before it has been given.
    pub fn stretch(&mut self) -> Result<Option<Stretch>, Fault> {
        if let Some(next) = self.next.take() {
            return (*next).map(|sighting| Some(self.alone(sighting)));
        }
        let mut stretch = Stretch { complete: self.complete, ..Stretch::default() };
        loop {
            match self.scanner.scan() {
                Ok(true) => {}
                Ok(false) => break,
                Err(fault) => {
                    let before = self.scanner.take();
                    return self.fail(Stretch { bytes: before, ..stretch }, fault);
                }
            }
            let frame = Frame(self.scanner.last());
            if !frame.is_sound(!self.content) {
                let fault = Fault::new(Kind::BadAnswer, "An event of the provider's stream is not JSON.");
                let before = self.scanner.take_without_last();
                return self.fail(Stretch { bytes: before, ..stretch }, fault);
            }
            let sighting = self.sniffer.frame(&frame);
            if sighting.is_plain() {
                self.count(&mut stretch, sighting.content);
                continue;
            }
            let apart = sighting.fault.is_some() || sighting.only_usage || self.usage_apart && sighting.usage.is_some();
            if !apart {
                self.count(&mut stretch, sighting.content);
                Arc::make_mut(stretch.told.get_or_insert_default()).follow(sighting);
                continue;
            }
            stretch.bytes = self.scanner.take_before_last();
            if stretch.bytes.is_empty() {
                return Ok(Some(self.alone(sighting)));
            }
            self.next = Some(Box::new(Ok(sighting)));
            return Ok(Some(stretch));
        }
        stretch.bytes = self.scanner.take();
        Ok(if stretch.bytes.is_empty() { None } else { Some(stretch) })
    }

    /// The frame scanned last, which stands alone.
    fn alone(&mut self, sighting: Sighting) -> Stretch {
        let mut stretch = Stretch { bytes: self.scanner.take(), ..Stretch::default() };
        self.count(&mut stretch, sighting.content);
        stretch.told = Some(Arc::new(sighting));
        stretch
    }

    fn fail(&mut self, before: Stretch, fault: Fault) -> Result<Option<Stretch>, Fault> {
        if before.bytes.is_empty() {
            return Err(fault);
        }
        self.next = Some(Box::new(Err(fault)));
        Ok(Some(before))
    }

    /// One more frame belongs to the stretch.
    fn count(&mut self, stretch: &mut Stretch, content: bool) {
        self.content |= content;
        self.complete = self.sniffer.complete();
        stretch.content |= content;
        match self.content {
            true => stretch.frames += 1,
            false => stretch.early = stretch.early.saturating_add(1),
        }
        stretch.complete = self.complete;
    }
}

impl std::fmt::Debug for Relayed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relayed")
            .field("content", &self.content)
            .field("complete", &self.complete)
            .finish_non_exhaustive()
    }
}

impl Sighting {
    /// Whether it says nothing, content aside.
    pub fn is_plain(&self) -> bool {
        self.usage.is_none()
            && self.finish.is_none()
            && self.fault.is_none()
            && self.id.is_none()
            && self.model.is_none()
            && !self.only_usage
    }

    /// Adds what a later frame of the same stretch shows.
    fn follow(&mut self, later: Sighting) {
        match (&mut self.usage, later.usage) {
            (Some(usage), Some(later)) => usage.update(&later),
            (usage, later) => *usage = usage.take().or(later),
        }
        self.finish = later.finish.or(self.finish);
        self.id = self.id.take().or(later.id);
        self.model = self.model.take().or(later.model);
        self.created = self.created.or(later.created);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::Finish;
    use crate::dialect::Op;

    const ROLE: &str =
        r#"data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
    const TEXT: &str =
        r#"data: {"id":"c","choices":[{"index":0,"delta":{"content":"Hi, this is some text of a stream"}}]}"#;
    const STOP: &str = r#"data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}"#;
    const USED: &str =
        r#"data: {"id":"c","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;
    const DONE: &str = "data: [DONE]";

    fn stream(frames: &[&str]) -> String {
        frames.iter().map(|frame| format!("{frame}\n\n")).collect()
    }

    fn relayed() -> Relayed {
        Relayed::new(crate::dialect::find("openai_chat").expect("built in").sniffer(Op::Generate))
    }

    /// Everything that these pieces come to, and why it ended.
    fn all(mut relayed: Relayed, pieces: &[&[u8]]) -> (Vec<Stretch>, Option<Fault>) {
        let mut stretches = Vec::new();
        let mut take = |relayed: &mut Relayed| loop {
            match relayed.stretch() {
                Ok(Some(stretch)) => stretches.push(stretch),
                Ok(None) => return None,
                Err(fault) => return Some(fault),
            }
        };
        for piece in pieces {
            relayed.push(Bytes::copy_from_slice(piece));
            if let Some(fault) = take(&mut relayed) {
                return (stretches, Some(fault));
            }
        }
        relayed.close();
        let fault = take(&mut relayed);
        (stretches, fault)
    }

    fn text(stretches: &[Stretch]) -> String {
        stretches.iter().map(|stretch| String::from_utf8_lossy(&stretch.bytes).into_owned()).collect()
    }

    #[test]
    fn what_is_shown_does_not_depend_on_where_the_pieces_are_cut() {
        let text_of = stream(&[ROLE, TEXT, TEXT, STOP, USED, DONE]);
        let bytes = text_of.as_bytes();
        for at in 0..bytes.len() {
            let (stretches, fault) = all(relayed(), &[&bytes[..at], &bytes[at..]]);
            assert!(fault.is_none());
            assert_eq!(text(&stretches), text_of, "cut at {at}");
            assert_eq!(stretches.iter().map(|stretch| stretch.frames).sum::<u32>(), 5, "cut at {at}");
            let content = stretches.iter().filter(|stretch| stretch.content).count();
            let told: Vec<_> =
                stretches.iter().filter_map(|stretch| Some((stretch, stretch.told.as_deref()?))).collect();
            let used: Vec<_> = told.iter().filter(|(_, told)| told.usage.is_some()).collect();
            assert_eq!((content, used.len()), (1, 1), "cut at {at}");
            assert!(used[0].1.only_usage && used[0].0.bytes.starts_with(USED.as_bytes()), "cut at {at}");
            let finishes: Vec<_> = told.iter().filter_map(|(_, told)| told.finish).collect();
            assert_eq!(finishes, [Finish::Stop], "cut at {at}");
            let ids: Vec<_> = told.iter().filter_map(|(_, told)| told.id.as_deref()).collect();
            assert_eq!(ids, ["c"], "cut at {at}");
            assert!(stretches.last().is_some_and(|last| last.complete), "cut at {at}");
        }
    }

    #[test]
    fn what_is_left_without_the_usage_are_whole_events_wherever_the_pieces_are_cut() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = |frames: &[&str]| frames.iter().map(|frame| format!("{frame}{end}{end}")).collect::<String>();
            let (all_of, shown) = (stream(&[ROLE, TEXT, STOP, USED, DONE]), stream(&[ROLE, TEXT, STOP, DONE]));
            for at in 0..all_of.len() {
                let (stretches, fault) = all(relayed(), &[&all_of.as_bytes()[..at], &all_of.as_bytes()[at..]]);
                assert!(fault.is_none());
                assert_eq!(text(&stretches), all_of, "{end:?} cut at {at}");
                let is_usage = |stretch: &Stretch| stretch.told.as_ref().is_some_and(|told| told.only_usage);
                let left: Vec<_> = stretches.into_iter().filter(|stretch| !is_usage(stretch)).collect();
                assert_eq!(text(&left), shown, "{end:?} cut at {at}");
            }
        }
    }

    #[test]
    fn a_stretch_is_complete_only_from_the_finish_on() {
        let pieces = [stream(&[ROLE, TEXT]), stream(&[TEXT]), stream(&[STOP]), stream(&[DONE])];
        let pieces: Vec<&[u8]> = pieces.iter().map(|piece| piece.as_bytes()).collect();
        let (stretches, _) = all(relayed(), &pieces);
        assert_eq!(stretches.iter().map(|stretch| stretch.complete).collect::<Vec<_>>(), [false, false, true, true]);
    }

    #[test]
    fn usage_beside_content_stands_apart_only_where_somebody_may_change_it() {
        let both = r#"data: {"choices":[{"index":0,"delta":{"content":"x"}}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5}}"#;
        let text_of = stream(&[TEXT, both, TEXT]);
        assert_eq!(all(relayed(), &[text_of.as_bytes()]).0.len(), 1);
        let apart = all(relayed().with_usage_apart(), &[text_of.as_bytes()]).0;
        assert_eq!(apart.iter().map(|stretch| stretch.frames).collect::<Vec<_>>(), [1, 1, 1]);
        let used = |stretch: &Stretch| stretch.told.as_ref().is_some_and(|told| told.usage.is_some());
        assert!(apart.iter().map(used).eq([false, true, false]) && text(&apart) == text_of);
    }

    #[test]
    fn what_came_before_a_bad_frame_is_given_first_and_nothing_of_it_after() {
        for bad in ["data: {\"choices\":[", "data: <html>"] {
            let (stretches, fault) = all(relayed(), &[stream(&[ROLE, TEXT, bad, TEXT]).as_bytes()]);
            assert_eq!(
                (text(&stretches), fault.map(|fault| fault.kind)),
                (stream(&[ROLE, TEXT]), Some(Kind::BadAnswer))
            );
        }
        let (stretches, fault) = all(relayed().bounded(200), &[stream(&[TEXT, &"x".repeat(300)]).as_bytes()]);
        assert_eq!((text(&stretches), fault.map(|fault| fault.kind)), (stream(&[TEXT]), Some(Kind::BadAnswer)));
    }

    #[test]
    fn a_reported_error_stands_alone() {
        let error = r#"data: {"error":{"message":"Overloaded","type":"overloaded_error"}}"#;
        let (stretches, _) = all(relayed(), &[stream(&[ROLE, TEXT, error]).as_bytes()]);
        assert_eq!(stretches.len(), 2);
        let failed = |stretch: &Stretch| stretch.told.as_ref().is_some_and(|told| told.fault.is_some());
        assert!(stretches.iter().map(failed).eq([false, true]));
    }
}
