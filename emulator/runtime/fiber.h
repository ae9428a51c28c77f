// Switching between stacks.
#pragma once

namespace emu {

// Saves the running context's stack pointer in `save` and continues the one whose stack pointer is `load`.
extern "C" void emu_switch(void** save, void* load);

// A context that starts `entry` on the stack that ends at `top`; `entry` never returns.
void* make_context(char* top, void (*entry)());

}  // namespace emu
