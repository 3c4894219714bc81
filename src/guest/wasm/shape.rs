//! What a component imports and exports, read off its bytes: what it is shows long before it is compiled.
//!
//! Trusts nothing that it reads: loading a component has the engine's own checks.

use wasmparser::{Parser, Payload};

use super::plugin::Bytes;

/// What a component wants and gives, by name.
#[derive(Debug, Default)]
pub struct Shape {
    pub imports: Vec<String>,
    pub exports: Vec<String>,
}

impl Shape {
    /// Reads it.
    ///
    /// # Errors
    /// The bytes are no component.
    pub fn of(bytes: &Bytes) -> Result<Shape, String> {
        read(&bytes.wasm).map_err(|error| format!("{}: {error}", bytes.path.display()))
    }

    /// Whether it is built to be a policy.
    pub fn is_policy(&self) -> bool {
        self.exports.iter().any(|name| name.starts_with("portcullis:gateway/manifest@"))
    }
}

fn read(wasm: &[u8]) -> wasmparser::Result<Shape> {
    let mut shape = Shape::default();
    // Modules and components inside have imports and exports of their own.
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(wasm) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    shape.imports.push(import?.name.name.to_owned());
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    shape.exports.push(export?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(shape)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_component_shows_what_it_is_without_being_compiled() {
        let shape = |name: &str| {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("plugins/prebuilt/{name}.wasm"));
            Shape::of(&Bytes::read(&path).expect("is checked in")).expect("is a component")
        };
        let (adapter, policy) = (shape("hostile"), shape("probe"));
        assert!(policy.is_policy() && !adapter.is_policy());
        assert_eq!(adapter.exports, ["portcullis:gateway/adapter@0.1.0"]);
        assert!(adapter.imports.iter().any(|name| name.starts_with("wasi:clocks/monotonic-clock@")), "{adapter:?}");
        assert!(policy.exports.iter().any(|name| name == "portcullis:gateway/on-request@0.1.0"), "{policy:?}");
        assert!(read(b"\0asm\x0d\0\x01\0\x01\xff").is_err(), "cut off");
    }
}
