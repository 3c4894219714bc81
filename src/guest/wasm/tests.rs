//! Plugins as they must behave, hostile ones too.
