//! `tools` and `toolConfig`, both directions. Never runs or checks a tool.

use serde_json::Value;

use crate::chat::{Ask, Tool, ToolChoice, as_function};
use crate::dialect::Encoding;
use crate::dialect::gemini::field::{self, Object, put, take, take_list, take_object, take_string};
use crate::dialect::gemini::{NAME, schema};
use crate::fault::Fault;

pub fn decode(tools: Vec<Value>) -> Result<Vec<Tool>, Fault> {
    let mut decoded = Vec::new();
    for (index, tool) in tools.into_iter().enumerate() {
        let Value::Object(mut tool) = tool else {
            return Err(field::wrong(&format!("tools[{index}]"), "an object"));
        };
        for (at, declaration) in take_list(&mut tool, "functionDeclarations").into_iter().enumerate() {
            let Value::Object(declaration) = declaration else {
                return Err(field::wrong(&format!("tools[{index}].functionDeclarations[{at}]"), "an object"));
            };
            decoded.push(function(declaration));
        }
        // Whatever else stands in the object is run by the provider; each is a tool of its own.
        for (name, value) in tool {
            if !value.is_null() {
                decoded.push(Tool::Hosted(Value::Object(field::object(&name, value))));
            }
        }
    }
    Ok(decoded)
}

fn function(mut declaration: Object) -> Tool {
    let json_schema = take(&mut declaration, "parametersJsonSchema");
    let own_schema = take(&mut declaration, "parameters");
    Tool::Function {
        name: take_string(&mut declaration, "name").unwrap_or_default(),
        description: take_string(&mut declaration, "description"),
        parameters: json_schema.or_else(|| own_schema.map(schema::to_json_schema)),
        strict: None,
        cache: None,
        extra: declaration,
    }
}

/// Reads `toolConfig`; what has no neutral form stays in `extra.toolConfig`.
pub fn decode_choice(mut config: Object, ask: &mut Ask) {
    if let Some(mut calling) = take_object(&mut config, "functionCallingConfig") {
        let mode = take_string(&mut calling, "mode").unwrap_or_default().to_ascii_uppercase();
        let mut names: Vec<String> = take_list(&mut calling, "allowedFunctionNames")
            .into_iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect();
        ask.tool_choice = match (mode.as_str(), names.len()) {
            ("NONE", _) => Some(ToolChoice::None),
            ("ANY", 0) => Some(ToolChoice::Required),
            ("ANY", 1) => names.pop().map(ToolChoice::Named),
            ("ANY", _) => Some(ToolChoice::Allowed { names, required: true }),
            ("AUTO" | "VALIDATED", 1..) => Some(ToolChoice::Allowed { names, required: false }),
            ("AUTO" | "VALIDATED", 0) => Some(ToolChoice::Auto),
            _ => None,
        };
        if mode == "VALIDATED" && ask.tool_choice == Some(ToolChoice::Auto) {
            calling.insert("mode".into(), mode.into());
        }
        // Arguments in pieces have no neutral form; the decoder of streams reads whole calls.
        take(&mut calling, "streamFunctionCallArguments");
        if !calling.is_empty() {
            config.insert("functionCallingConfig".into(), calling.into());
        }
    }
    if !config.is_empty() {
        ask.extra.insert("toolConfig".into(), config.into());
    }
}

/// Declarations in one object, then what the provider runs, each in its own.
pub fn encode(tools: &[Tool], source: &str, to: &mut Encoding<'_>) -> Vec<Value> {
    let mut declarations = Vec::new();
    let mut hosted = Vec::new();
    for tool in tools {
        match tool {
            Tool::Function { name, description, parameters, extra, .. } => {
                let mut declaration = field::object("name", name.clone());
                put(&mut declaration, "description", description.clone());
                put(&mut declaration, "parametersJsonSchema", parameters.as_ref().map(schema::for_gemini));
                if source == NAME {
                    declaration.extend(extra.clone());
                }
                declarations.push(Value::Object(declaration));
            }
            Tool::Custom { name, description, format } => {
                declarations.push(free_text(name, description.as_deref(), format.as_ref()));
            }
            Tool::Hosted(tool) if source == NAME => hosted.push(tool.clone()),
            Tool::Hosted(_) => to.drop_if(true, "tools", "a tool that only another provider runs"),
        }
    }
    let mut encoded = Vec::new();
    if !declarations.is_empty() {
        encoded.push(Value::Object(field::object("functionDeclarations", declarations)));
    }
    encoded.extend(hosted);
    encoded
}

/// A free-text tool as a function with one string parameter.
fn free_text(name: &str, description: Option<&str>, format: Option<&Value>) -> Value {
    let (description, parameters) = as_function(description, format);
    let mut declaration = field::object("name", name);
    put(&mut declaration, "description", description);
    declaration.insert("parametersJsonSchema".into(), parameters);
    Value::Object(declaration)
}

/// `toolConfig`, or None when there is nothing to say.
pub fn encode_choice(ask: &Ask) -> Option<Object> {
    let mut config = match ask.extra.get("toolConfig") {
        Some(Value::Object(config)) if ask.source == NAME => config.clone(),
        _ => Object::new(),
    };
    let declares = ask.tools.iter().any(|tool| !matches!(tool, Tool::Hosted(_)));
    if let Some(choice) = ask.tool_choice.as_ref().filter(|_| declares) {
        let mut calling = take_object(&mut config, "functionCallingConfig").unwrap_or_default();
        let validated = take(&mut calling, "mode").is_some();
        let (mode, names) = match choice {
            ToolChoice::Auto if validated => ("VALIDATED", None),
            ToolChoice::Auto => ("AUTO", None),
            ToolChoice::None => ("NONE", None),
            ToolChoice::Required => ("ANY", None),
            ToolChoice::Named(name) => ("ANY", Some(vec![name.clone()])),
            ToolChoice::Allowed { names, required: true } => ("ANY", Some(names.clone())),
            // AUTO takes no list of names; VALIDATED is AUTO with one.
            ToolChoice::Allowed { names, required: false } => ("VALIDATED", Some(names.clone())),
        };
        calling.insert("mode".into(), mode.into());
        put(&mut calling, "allowedFunctionNames", names);
        config.insert("functionCallingConfig".into(), calling.into());
    }
    (!config.is_empty()).then_some(config)
}
