//! `/nodes/{node}/qemu/{vmid}/agent` (facts F.8).

use serde_json::json;

use super::call::{Answer, Call, Reply};
use crate::simulator::model::State;

/// Most that one call reads of a file.
const MOST: u64 = 16 << 20;

/// Commands without parameters: the last part of the path is their name.
pub fn command(state: &mut State, call: &Call) -> Answer {
    let name = call.path.rsplit('/').next().unwrap_or_default();
    run(state, call, name)
}

/// `POST …/agent`: the command is a parameter.
pub fn any_command(state: &mut State, call: &Call) -> Answer {
    run(state, call, &call.params.text("command"))
}

fn run(state: &mut State, call: &Call, name: &str) -> Answer {
    let result = state.agent_command(&call.params.node(), call.params.vmid(), name)?;
    Ok(json!({ "result": result }).into())
}

/// `POST …/agent/exec`.
pub fn exec(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let (command, input) = (params.list("command"), params.text("input-data"));
    let pid = state.agent_exec(&params.node(), params.vmid(), &command, &input)?;
    Ok(json!({ "pid": pid }).into())
}

/// `GET …/agent/exec-status`.
pub fn exec_status(state: &mut State, call: &Call) -> Answer {
    let pid = call.params.int("pid").unwrap_or_default();
    Ok(state
        .agent_exec_status(&call.params.node(), call.params.vmid(), pid)?
        .into())
}

/// `GET …/agent/file-read`.
pub fn file_read(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let count = params.int("count").unwrap_or(MOST) as usize;
    let offset = params.int("offset").unwrap_or(0) as usize;
    let decode = params.maybe_flag("decode").unwrap_or(true);
    Ok(state
        .agent_read(
            &params.node(),
            params.vmid(),
            &params.text("file"),
            offset,
            count,
            decode,
        )?
        .into())
}

/// `POST …/agent/file-write`.
pub fn file_write(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    let encode = params.maybe_flag("encode").unwrap_or(true);
    let (file, content) = (params.text("file"), params.text("content"));
    state.agent_write(&params.node(), params.vmid(), &file, &content, encode)?;
    Ok(Reply::NULL)
}

/// `POST …/agent/set-user-password`.
pub fn set_user_password(state: &mut State, call: &Call) -> Answer {
    let params = &call.params;
    state.agent_password(&params.node(), params.vmid(), &params.text("username"))?;
    Ok(json!({ "result": {} }).into())
}
