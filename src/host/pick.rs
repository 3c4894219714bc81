//! Choosing among names: by weight, or by a key so that the same key gets the same name.
//!
//! Pure: the same arguments give the same choice on every node.

use super::HostError;

/// One of the names, by weight. `point` is from 0 to 1.
///
/// # Errors
/// A weight is not finite.
pub fn weighted(weights: &[(String, f64)], point: f64) -> Result<Option<&str>, HostError> {
    if let Some((name, weight)) = weights.iter().find(|(_, weight)| !weight.is_finite()) {
        return Err(HostError(format!("pick.weighted: the weight of `{name}` is {weight}; give a number")));
    }
    let usable = || weights.iter().filter(|(_, weight)| *weight > 0.0);
    let sum: f64 = usable().map(|(_, weight)| weight).sum();
    let mut left = point * sum;
    let mut last = None;
    for (name, weight) in usable() {
        last = Some(name.as_str());
        left -= weight;
        if left < 0.0 {
            break;
        }
    }
    Ok(last)
}

/// The point from 0 to 1 that a key stands for.
pub fn point(key: &[u8]) -> f64 {
    // The upper 53 bits fill a float's fraction exactly.
    (fnv(key, b"") >> 11) as f64 / (1u64 << 53) as f64
}

/// The name that a key belongs to. Each name's claim on a key depends on the two alone, so a name that goes away moves
/// no key but its own.
pub fn hash<'a>(names: &'a [String], key: &[u8]) -> Option<&'a str> {
    names.iter().max_by_key(|name| fnv(key, name.as_bytes())).map(String::as_str)
}

/// FNV-1a with a final mix (the finaliser of SplitMix64): short keys that differ in one bit end far apart.
fn fnv(key: &[u8], name: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    for byte in key.iter().chain([&0xff]).chain(name) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_kept_and_useless_ones_never_chosen() {
        let weights = [("a".to_owned(), 3.0), ("b".into(), 0.0), ("c".into(), 1.0), ("d".into(), -2.0)];
        let one = |weights: &[(String, f64)], point| weighted(weights, point).map(|name| name.map(str::to_owned));
        let counts = (0..4000).filter_map(|at| one(&weights, f64::from(at) / 4000.0).expect("finite"));
        let a = counts.filter(|name| *name == "a").count();
        assert_eq!(a, 3000);
        assert_eq!(one(&weights, 1.0).expect("finite").as_deref(), Some("c"));
        assert_eq!(one(&[("b".into(), 0.0)], 0.5).expect("finite"), None);
        for odd in [f64::NAN, f64::INFINITY] {
            let error = one(&[("a".into(), 1.0), ("b".into(), odd)], 0.5).expect_err("no weight");
            assert!(error.0.contains(&format!("the weight of `b` is {odd}")), "{}", error.0);
        }
    }

    #[test]
    fn a_name_that_goes_away_moves_only_its_own_keys() {
        let all: Vec<String> = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        let fewer = all[..3].to_vec();
        let mut moved = 0;
        for key in 0..2000 {
            let key = format!("user-{key}");
            let (before, after) = (hash(&all, key.as_bytes()), hash(&fewer, key.as_bytes()));
            if before != after {
                assert_eq!(before, Some("d"));
                moved += 1;
            }
        }
        assert!((400..600).contains(&moved), "{moved}");
    }

    #[test]
    fn points_of_keys_are_spread_evenly() {
        let low = (0..2000).filter(|key| point(format!("k{key}").as_bytes()) < 0.1).count();
        assert!((140..260).contains(&low), "{low}");
    }
}
