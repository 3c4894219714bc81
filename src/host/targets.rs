//! Targets as guests see them: how they are doing, what they cost, what they can.
//!
//! Reads only; a guest moves traffic by the plan it returns.

use crate::chat::Usage;
use crate::cost::Modality;
use crate::exchange::BYTES_PER_TOKEN;
use crate::route::Target;
use crate::state::health::{Measure, Standing};

use super::{Cx, HostError, MAX_WHOLE};

/// What is known of a target at one moment.
#[derive(Debug, Clone)]
pub struct View {
    pub name: String,
    pub provider: String,
    pub model: String,
    pub measure: Measure,
    /// US dollars per million tokens.
    pub price_in: Option<f64>,
    pub price_out: Option<f64>,
    pub context: Option<u64>,
    pub max_output: Option<u64>,
    pub tools: Option<bool>,
    pub vision: Option<bool>,
    pub reasoning: Option<bool>,
    pub json_schema: Option<bool>,
}

impl View {
    pub fn of(cx: &Cx, target: &Target) -> Result<View, HostError> {
        let state = cx.world()?.state();
        let name = target.name();
        let measure = target.record(&state.health).measure(state.now());
        let card = target.card.as_deref();
        let rates = card.and_then(|card| card.price.as_ref()).map(|price| price.base);
        let dollars = |nanos: u64| nanos as f64 / 1e9;
        Ok(View {
            name,
            provider: target.provider.name.clone(),
            model: target.model.clone(),
            measure,
            price_in: rates.map(|rates| dollars(rates.input)),
            price_out: rates.map(|rates| dollars(rates.output)),
            context: card.and_then(|card| card.context),
            max_output: card.and_then(|card| card.max_output),
            tools: card.and_then(|card| card.tool_call),
            vision: card.map(|card| card.input.contains(&Modality::Image)),
            reasoning: card.and_then(|card| card.reasoning),
            json_schema: card.and_then(|card| card.structured_output),
        })
    }

    /// Whether it is given requests now.
    pub fn healthy(&self) -> bool {
        matches!(self.measure.standing, Standing::Closed | Standing::HalfOpen)
    }

    pub fn standing(&self) -> &'static str {
        match self.measure.standing {
            Standing::Closed => "closed",
            Standing::HalfOpen => "half_open",
            Standing::Open { .. } => "open",
            Standing::Drained => "drained",
        }
    }
}

/// One target by its name; None when no model is called so.
///
/// # Errors
/// There is no gateway around the call.
pub fn get(cx: &Cx, name: &str) -> Result<Option<View>, HostError> {
    match cx.world()?.targets(name).ok().and_then(|targets| targets.into_iter().next()) {
        Some(target) => View::of(cx, &target).map(Some),
        None => Ok(None),
    }
}

/// The targets behind a model.
///
/// # Errors
/// No model is called so.
pub fn list(cx: &Cx, model: &str) -> Result<Vec<View>, HostError> {
    let targets = cx.world()?.targets(model).map_err(HostError)?;
    targets.iter().map(|target| View::of(cx, target)).collect()
}

/// A number of tokens that a guest has reckoned and gives under this name. A part of one counts as one: it is an estimate.
///
/// # Errors
/// It is less than nothing, or no number.
pub fn reckoned(name: &str, tokens: f64) -> Result<u64, HostError> {
    match tokens {
        0.0..=MAX_WHOLE => Ok(tokens.ceil() as u64),
        _ => Err(HostError(format!("`{name}` is {tokens}; write a number of tokens from 0 to 2^53"))),
    }
}

/// US dollars for a usage; None when the price is unknown.
///
/// # Errors
/// No target is called so.
pub fn cost(cx: &Cx, name: &str, input: u64, output: u64) -> Result<Option<f64>, HostError> {
    let targets = cx.world()?.targets(name).map_err(HostError)?;
    let usage = Usage { input, output, ..Usage::default() };
    Ok(targets.first().and_then(|target| target.cost(&usage)).map(|nanos| nanos as f64 / 1e9))
}

/// About how many tokens a text is.
pub fn tokens(text: &[u8]) -> u64 {
    (text.len() as u64).div_ceil(BYTES_PER_TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_a_reckoned_token_counts_as_one() {
        assert_eq!((reckoned("input_tokens", 0.0), reckoned("input_tokens", 1.25)), (Ok(0), Ok(2)));
        assert!(reckoned("input_tokens", f64::NAN).is_err() && reckoned("input_tokens", -0.5).is_err());
    }
}
