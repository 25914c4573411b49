"""Cloud resources realised on this machine: one class per resource type, behind the engine's provider interface."""
