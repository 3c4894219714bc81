//! Where personal data stands in a text. Pure.
//!
//! Finds by shape, then by check digits where there are some; what merely looks like a number stays.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Email,
    Phone,
    Card,
    Iban,
    Ip,
    Key,
}

impl Kind {
    /// In the order in which they are looked for: where two overlap, the earlier one counts.
    pub const ALL: [Kind; 6] = [Kind::Email, Kind::Key, Kind::Iban, Kind::Card, Kind::Ip, Kind::Phone];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Email => "email",
            Kind::Phone => "phone",
            Kind::Card => "card",
            Kind::Iban => "iban",
            Kind::Ip => "ip",
            Kind::Key => "key",
        }
    }

    pub fn named(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// Bytes from `first` up to, not including, `end`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    pub kind: Kind,
    pub first: usize,
    pub end: usize,
}

/// What begins the keys of well-known services, and how many characters follow at least.
const KEYS: &[(&str, usize)] = &[
    ("sk-", 20),
    ("ghp_", 30),
    ("gho_", 30),
    ("github_pat_", 30),
    ("AKIA", 16),
    ("AIza", 30),
    ("xoxb-", 20),
    ("xoxp-", 20),
    ("glpat-", 18),
];

/// Everything in a text, in order, without overlaps.
pub fn all(text: &str, kinds: &[Kind]) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| kinds.contains(kind)) {
        let mut add = |first: usize, end: usize| {
            if found.iter().all(|other| end <= other.first || other.end <= first) {
                found.push(Found { kind, first, end });
            }
        };
        match kind {
            Kind::Email => emails(text.as_bytes(), &mut add),
            Kind::Key => keys(text, &mut add),
            Kind::Iban => ibans(text.as_bytes(), &mut add),
            Kind::Card => digits(text.as_bytes(), b" -", 13, 19, is_card, &mut add),
            Kind::Ip => ips(text, &mut add),
            Kind::Phone => digits(text.as_bytes(), b" -().", 8, 15, is_phone, &mut add),
        }
    }
    found.sort_by_key(|found| found.first);
    found
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn emails(text: &[u8], add: &mut dyn FnMut(usize, usize)) {
    let local = |byte: u8| is_word(byte) || b"._%+-".contains(&byte);
    let domain = |byte: u8| is_word(byte) || byte == b'.' || byte == b'-';
    for at in (0..text.len()).filter(|at| text[*at] == b'@') {
        let first = (0..at).rev().take_while(|before| local(text[*before])).last().unwrap_or(at);
        let mut end = at + 1 + text[at + 1..].iter().take_while(|byte| domain(**byte)).count();
        while end > at + 1 && !is_word(text[end - 1]) {
            end -= 1;
        }
        let host = &text[at + 1..end];
        let top = host.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
        if first < at && top.len() >= 2 && top.len() < host.len() && top.iter().all(u8::is_ascii_alphabetic) {
            add(first, end);
        }
    }
}

fn keys(text: &str, add: &mut dyn FnMut(usize, usize)) {
    for (prefix, least) in KEYS {
        for (first, _) in text.match_indices(prefix) {
            if first > 0 && is_word(text.as_bytes()[first - 1]) {
                continue;
            }
            let rest = &text.as_bytes()[first + prefix.len()..];
            let length = rest.iter().take_while(|byte| is_word(**byte) || b"_-".contains(byte)).count();
            if length >= *least {
                add(first, first + prefix.len() + length);
            }
        }
    }
}

fn ibans(text: &[u8], add: &mut dyn FnMut(usize, usize)) {
    let mut at = 0;
    while at + 4 <= text.len() {
        let starts = text[at].is_ascii_uppercase()
            && text[at + 1].is_ascii_uppercase()
            && text[at + 2].is_ascii_digit()
            && text[at + 3].is_ascii_digit()
            && (at == 0 || !is_word(text[at - 1]));
        if !starts {
            at += 1;
            continue;
        }
        let mut letters = Vec::new();
        let mut end = at;
        let mut good = None;
        while end < text.len() && letters.len() < 34 {
            match text[end] {
                b' ' if end > at && text[end - 1] != b' ' => {}
                byte if byte.is_ascii_uppercase() || byte.is_ascii_digit() => letters.push(byte),
                _ => break,
            }
            end += 1;
            let whole = end == text.len() || !is_word(text[end]);
            if letters.len() >= 15 && whole && text[end - 1] != b' ' && is_iban(&letters) {
                good = Some(end);
            }
        }
        match good {
            Some(end) => {
                add(at, end);
                at = end;
            }
            None => at += 1,
        }
    }
}

/// ISO 7064, MOD 97-10: the first four letters moved to the end, letters counted from 10.
fn is_iban(letters: &[u8]) -> bool {
    let moved = letters[4..].iter().chain(&letters[..4]);
    let rest = moved.fold(0u32, |rest, letter| match letter {
        b'0'..=b'9' => (rest * 10 + u32::from(letter - b'0')) % 97,
        _ => (rest * 100 + u32::from(letter - b'A') + 10) % 97,
    });
    rest == 1
}

/// Runs of digits with single separators between them.
fn digits(
    text: &[u8],
    between: &[u8],
    least: usize,
    most: usize,
    fits: fn(&[u8], &[u8]) -> bool,
    add: &mut dyn FnMut(usize, usize),
) {
    let mut at = 0;
    while at < text.len() {
        let opens = text[at].is_ascii_digit() || (matches!(text[at], b'+' | b'(') && between.contains(&b'('));
        if !opens || (at > 0 && (is_word(text[at - 1]) || text[at - 1] == b'.')) {
            at += 1;
            continue;
        }
        let (mut end, mut last, mut run) = (at, at, Vec::new());
        while end < text.len() {
            match text[end] {
                digit if digit.is_ascii_digit() => {
                    run.push(digit);
                    last = end + 1;
                }
                b'+' if end == at => {}
                byte if between.contains(&byte) && end + 1 - last.max(at) <= 2 => {}
                _ => break,
            }
            end += 1;
        }
        let whole = last >= text.len() || !is_word(text[last]);
        if whole && (least..=most).contains(&run.len()) && fits(&run, &text[at..last]) {
            add(at, last);
        }
        at = last.max(at + 1);
    }
}

/// The Luhn check.
fn is_card(run: &[u8], _: &[u8]) -> bool {
    let sum: u32 = run
        .iter()
        .rev()
        .enumerate()
        .map(|(place, digit)| {
            let digit = u32::from(digit - b'0') * (1 + place as u32 % 2);
            if digit > 9 { digit - 9 } else { digit }
        })
        .sum();
    sum % 10 == 0 && run.iter().any(|digit| *digit != run[0])
}

/// An international number, or one that is grouped as people write them.
fn is_phone(run: &[u8], text: &[u8]) -> bool {
    let groups = text.iter().filter(|byte| b" -.()".contains(byte)).count();
    text[0] == b'+' || (groups >= 2 && run.len() >= 9 && (run[0] == b'0' || text[0] == b'(' || run.len() == 10))
}

fn ips(text: &str, add: &mut dyn FnMut(usize, usize)) {
    let inside = |c: char| c.is_ascii_digit() || c == '.';
    let mut from = 0;
    for part in text.split(|c| !inside(c)) {
        let trimmed = part.trim_end_matches('.');
        if trimmed.parse::<std::net::Ipv4Addr>().is_ok() {
            add(from, from + trimmed.len());
        }
        from += part.len() + text[from + part.len()..].chars().next().map_or(0, char::len_utf8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(&str, &str)> {
        all(text, &Kind::ALL).iter().map(|found| (found.kind.name(), &text[found.first..found.end])).collect()
    }

    #[test]
    fn what_is_personal_is_found() {
        assert_eq!(found("Write to Ada.L@example.co.uk."), [("email", "Ada.L@example.co.uk")]);
        assert_eq!(found("card 4111 1111 1111 1111, please"), [("card", "4111 1111 1111 1111")]);
        assert_eq!(found("DE89 3704 0044 0532 0130 00"), [("iban", "DE89 3704 0044 0532 0130 00")]);
        assert_eq!(found("call +49 (30) 1234567 now"), [("phone", "+49 (30) 1234567")]);
        assert_eq!(found("key sk-abcdefghijklmnopqrstuvwx"), [("key", "sk-abcdefghijklmnopqrstuvwx")]);
        assert_eq!(found("from 10.1.2.3."), [("ip", "10.1.2.3")]);
    }

    #[test]
    fn what_is_not_stays() {
        for text in ["4111 1111 1111 1112", "in 2024 there were 1000000 of 3.14159265", "@home", "a@b", "version 1.2.3"] {
            assert_eq!(found(text), [], "{text}");
        }
    }
}
