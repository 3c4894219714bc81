//! Plugins in Python: componentize-py puts the source and an interpreter into a component.

use std::path::PathBuf;
use std::process::Command;

use super::{Project, main_file, staged, tools, world};

pub(super) fn build(project: &Project) -> Result<PathBuf, String> {
    let venv = project.folder.join(".venv/bin/componentize-py");
    let tool = if venv.is_file() { Some(venv) } else { tools::find("componentize-py") };
    let tool = tool.ok_or_else(|| {
        let folder = project.folder.join(".venv");
        let folder = folder.display();
        format!(
            "`componentize-py` is neither on PATH nor in .venv: `python3 -m venv {folder} && {folder}/bin/pip install \
             componentize-py==0.25.1`"
        )
    })?;
    let source = main_file(&project.folder, "py", "app")?;
    let stage = staged(project)?;
    let world = world::name(&project.folder)?;
    let output = project.work.join("component.wasm");
    let mut command = Command::new(tool);
    command.current_dir(&stage).args(["-d", "wit", "-w", &world, "componentize", "--stub-wasi"]);
    tools::run(command.arg(source.file_stem().unwrap_or_default()).arg("-o").arg(&output))?;
    Ok(output)
}
