//! How a target model is asked to think, and what has to give way for it.
//!
//! Claude generations differ in the form they take (see `models`), and thinking excludes other parameters. Only decides;
//! `params` writes.

use serde_json::{Value, json};

use super::NAME;
use super::models::{Model, Thinking};
use super::wire::str_of;
use crate::chat::reasoning::MIN_BUDGET;
use crate::chat::{Ask, Effort, ReasoningAsk};
use crate::dialect::Encoding;

/// What to send.
#[derive(Debug)]
pub struct Plan {
    pub thinking: Option<Value>,
    /// `output_config.effort`.
    pub effort: Option<&'static str>,
    pub max_tokens: u64,
    /// Whether the answer begins with thinking, which excludes most sampling parameters.
    pub on: bool,
}

/// Decides. May take a forced tool choice back where the model would refuse both together.
pub fn plan(ask: &Ask, model: &Model, messages: &[Value], choice: &mut Option<Value>, to: &mut Encoding<'_>) -> Plan {
    let mut plan =
        Plan { thinking: None, effort: None, max_tokens: ask.max_tokens.unwrap_or(model.max_tokens), on: false };
    let Some(reasoning) = &ask.reasoning else { return plan };
    let own = ask.source == NAME;
    if reasoning.effort == Some(Effort::None) || reasoning.budget == Some(0) {
        if model.can_disable && model.thinking != Thinking::Never {
            plan.thinking = Some(json!({"type": "disabled"}));
        }
        to.drop_if(!model.can_disable, "reasoning", "this model always thinks");
        return plan;
    }
    let wanted = reasoning.budget.is_some() || reasoning.adaptive || (reasoning.effort.is_some() && !own);
    if own {
        // Anthropic's own effort is about the whole answer and stands beside thinking.
        plan.effort = reasoning.effort.map(word_own);
    }
    if !wanted {
        return plan;
    }
    if model.thinking == Thinking::Never {
        to.dropped.push(("reasoning", "this model cannot think"));
        plan.effort = None;
        return plan;
    }
    let forced =
        choice.as_ref().and_then(|choice| str_of(choice, "type")).is_some_and(|kind| kind != "auto" && kind != "none");
    if forced {
        // A caller that forces a tool relies on the call; the thinking before it is the lesser loss.
        to.dropped.push(("reasoning", "not together with a forced tool call"));
        return plan;
    }
    let adaptive = match model.thinking {
        Thinking::Adaptive => true,
        Thinking::Either => reasoning.budget.is_none() || lacks_thinking(messages),
        Thinking::Budget | Thinking::Never => false,
    };
    if adaptive {
        think_adaptively(ask, reasoning, model, to, &mut plan);
    } else {
        think_within_budget(ask, reasoning, model, messages, to, &mut plan);
    }
    plan
}

fn think_adaptively(ask: &Ask, reasoning: &ReasoningAsk, model: &Model, to: &mut Encoding<'_>, plan: &mut Plan) {
    let own = ask.source == NAME;
    let mut thinking = json!({"type": "adaptive"});
    // These models keep their thoughts to themselves unless asked, and callers of other dialects have no word for it.
    if !own && model.thinking == Thinking::Adaptive && reasoning.include != Some(false) {
        thinking["display"] = "summarized".into();
    }
    to.drop_if(reasoning.budget.is_some(), "reasoning budget", "this model only takes an effort");
    if plan.effort.is_none() {
        let effort = reasoning.effort_level(ask.max_tokens);
        plan.effort = effort.map(|effort| word(effort, model));
    }
    plan.thinking = Some(thinking);
    plan.on = true;
}

fn think_within_budget(
    ask: &Ask,
    reasoning: &ReasoningAsk,
    model: &Model,
    messages: &[Value],
    to: &mut Encoding<'_>,
    plan: &mut Plan,
) {
    if lacks_thinking(messages) {
        // Anthropic refuses to go on thinking in a turn that was begun without; such a history comes from dialects and
        // providers that gave no signed reasoning.
        to.dropped.push(("reasoning", "the turn that goes on has no signed reasoning"));
        return;
    }
    let stated = reasoning.budget_tokens(ask.max_tokens);
    let mut budget = stated.unwrap_or_else(|| Effort::Medium.budget(ask.max_tokens)).max(MIN_BUDGET);
    match ask.max_tokens {
        // The budget counts into max_tokens: what is left is for the answer.
        None => plan.max_tokens = model.max_tokens.saturating_add(budget),
        // Its own caller may know of interleaved thinking, where the budget spans several answers.
        Some(_) if ask.source == NAME && reasoning.budget.is_some() => {}
        Some(most) if most <= MIN_BUDGET => {
            to.dropped.push(("reasoning", "max_tokens leaves no room for the smallest budget"));
            return;
        }
        Some(most) => budget = budget.min((most - 1).min((most / 100 * 95).max(MIN_BUDGET))),
    }
    plan.thinking = Some(json!({"type": "enabled", "budget_tokens": budget}));
    plan.on = true;
}

/// Whether the conversation stands in the middle of a turn (results follow) whose calls came without thinking.
fn lacks_thinking(messages: &[Value]) -> bool {
    let [.., before, last] = messages else { return false };
    let answers = blocks(last).iter().any(|block| str_of(block, "type") == Some("tool_result"));
    let first = blocks(before).first().and_then(|block| str_of(block, "type"));
    answers && !matches!(first, Some("thinking" | "redacted_thinking"))
}

fn blocks(message: &Value) -> &[Value] {
    message.get("content").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn word_own(effort: Effort) -> &'static str {
    match effort {
        Effort::None | Effort::Minimal => "low",
        other => other.as_str(),
    }
}

fn word(effort: Effort, model: &Model) -> &'static str {
    match effort {
        // Known since the adaptive-only models.
        Effort::Xhigh if model.thinking != Thinking::Adaptive => "high",
        other => word_own(other),
    }
}
