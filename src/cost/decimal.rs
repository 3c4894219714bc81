//! Decimal numbers in and out of integers. Never goes through a float on the way in.

use std::time::Duration;

/// Digits after the point that are kept: a nano-dollar is the smallest unit.
const SCALE: i64 = 9;

/// Exponents beyond this are a slip, not a price.
const MAX_EXPONENT: i64 = 64;

/// Reads the text of a JSON number as billionths, rounding half up. None when it is negative, no number, or does not
/// fit (18.4 thousand million).
pub fn parse_nano(text: &str) -> Option<u64> {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i64>().ok()?),
        None => (text, 0),
    };
    if exponent.abs() > MAX_EXPONENT {
        return None;
    }
    let (negative, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    // The digits without a point, and how many of them stand before the nano point.
    let kept = whole.len() as i64 + exponent + SCALE;
    let mut value: u64 = 0;
    let mut digits = whole.bytes().chain(fraction.bytes()).map(|b| u64::from(b - b'0'));
    for _ in 0..kept {
        value = value.checked_mul(10)?.checked_add(digits.next().unwrap_or(0))?;
    }
    // A negative count of kept digits means zeros before the first one: nothing to round up.
    if kept >= 0 && digits.next().unwrap_or(0) >= 5 {
        value = value.checked_add(1)?;
    }
    (!negative || value == 0).then_some(value)
}

// Every answer carries such numbers in headers and in its log line, and the formatter of the standard library takes
// longer than all of these together.

/// Writes a number's digits.
pub fn digits(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// Writes the last `width` places of a number, zeroes in front.
pub fn places(out: &mut Vec<u8>, number: u64, width: usize) {
    let (from, mut rest) = (out.len(), number);
    out.resize(from + width, b'0');
    for place in out[from..].iter_mut().rev() {
        *place += (rest % 10) as u8;
        rest /= 10;
    }
}

/// Writes a span in milliseconds with three decimals.
pub fn millis(out: &mut Vec<u8>, span: Duration) {
    let micros = span.as_micros() as u64;
    digits(out, micros / 1000);
    out.push(b'.');
    places(out, micros, 3);
}

/// Writes nano-dollars as an exact decimal number of dollars, without trailing zeros: `1_500_000_000` is `1.5`.
pub fn write_dollars(out: &mut Vec<u8>, nano: u64) {
    let (whole, mut rest) = (nano / 1_000_000_000, nano % 1_000_000_000);
    digits(out, whole);
    if rest > 0 {
        out.push(b'.');
    }
    while rest > 0 {
        out.push(b'0' + (rest / 100_000_000) as u8);
        rest = rest % 100_000_000 * 10;
    }
}

/// The same as a text of its own.
pub fn nano_to_decimal(nano: u64) -> String {
    let mut out = Vec::with_capacity(24);
    write_dollars(&mut out, nano);
    String::from_utf8(out).unwrap_or_default()
}

/// Nano-dollars as the nearest double, for JSON numbers. Below a million dollars that is at most fifteen digits, which
/// a double keeps: it prints as the same decimal.
pub fn nano_to_f64(nano: u64) -> f64 {
    nano as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_exactly() {
        for (text, nano) in [
            ("0", 0),
            ("-0", 0),
            ("-0.0", 0),
            ("0.25", 250_000_000),
            ("2", 2_000_000_000),
            ("10.0", 10_000_000_000),
            ("0.0375", 37_500_000),
            ("0.083333333", 83_333_333),
            ("1e-9", 1),
            ("25e-2", 250_000_000),
            ("2.5E+1", 25_000_000_000),
            ("0.0000000005", 1),
            ("0.00000000049999", 0),
            ("5e-10", 1),
            ("5e-11", 0),
            ("9e-12", 0),
            ("0.1000000000000000055511151231257827", 100_000_000),
            ("18446744073.709551615", u64::MAX),
        ] {
            assert_eq!(parse_nano(text), Some(nano), "{text}");
        }
    }

    #[test]
    fn what_is_no_price_is_refused() {
        for text in
            ["", "-", "-1", "-0.000000001", "1.2.3", "abc", "1e", "1e99", "1e-99", "18446744073.709551616", ".5"]
        {
            assert_eq!(parse_nano(text), None, "{text}");
        }
    }

    #[test]
    fn dollars_are_written_exactly() {
        for (nano, text) in [
            (0, "0"),
            (1, "0.000000001"),
            (1_500_000_000, "1.5"),
            (1_000_000_000, "1"),
            (37_500_000, "0.0375"),
            (12_345_678_901_234_567, "12345678.901234567"),
            (u64::MAX, "18446744073.709551615"),
        ] {
            assert_eq!(nano_to_decimal(nano), text);
            assert_eq!(parse_nano(text), Some(nano));
        }
    }

    #[test]
    fn numbers_are_written_as_a_formatter_would() {
        let written = |write: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            write(&mut out);
            String::from_utf8(out).expect("text")
        };
        for number in [0, 7, 10, 999, u64::MAX] {
            assert_eq!(written(&|out| digits(out, number)), number.to_string());
            assert_eq!(written(&|out| places(out, number, 4)), format!("{:04}", number % 10_000));
        }
        assert_eq!(written(&|out| millis(out, Duration::from_micros(12_003_045))), "12003.045");
    }

    #[test]
    fn the_double_prints_as_the_decimal() {
        for nano in [1, 37_500_000, 123_456_789, 1_234_567_890_123, 999_999_999_999_999] {
            assert_eq!(format!("{}", nano_to_f64(nano)), nano_to_decimal(nano));
        }
    }
}
