//! Where in JSON a byte stands, of JSON that comes in pieces. Pure.

use crate::find::Found;

/// Where a byte stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// In no string: of a number, a word, or between them.
    Outside,
    Inside,
    /// Behind the backslash of a string.
    Escaped,
}

impl Place {
    /// To be kept until the next piece.
    pub fn number(self) -> f64 {
        f64::from(self as u8)
    }

    pub fn of(number: f64) -> Place {
        [Place::Outside, Place::Inside, Place::Escaped].into_iter().find(|place| place.number() == number).unwrap_or(Place::Outside)
    }
}

/// The places before each byte of a piece, and behind its last.
pub fn places(piece: &str, began: Place) -> Vec<Place> {
    let mut places = Vec::with_capacity(piece.len() + 1);
    let mut now = began;
    places.push(now);
    for byte in piece.bytes() {
        now = match (now, byte) {
            (Place::Outside, b'"') => Place::Inside,
            (Place::Inside, b'"') => Place::Outside,
            (Place::Inside, b'\\') => Place::Escaped,
            (Place::Escaped, _) => Place::Inside,
            (now, _) => now,
        };
        places.push(now);
    }
    places
}

/// Of what stands in no string all of the number is meant: half of one cannot be replaced.
pub fn widen(found: &mut Found, piece: &str, places: &[Place]) {
    if places[found.first] != Place::Outside {
        return;
    }
    let bytes = piece.as_bytes();
    let of_number = |at: usize| matches!(bytes[at], b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
    while found.first > 0 && places[found.first - 1] == Place::Outside && of_number(found.first - 1) {
        found.first -= 1;
    }
    while found.end < bytes.len() && of_number(found.end) {
        found.end += 1;
    }
}
