/* SPDX-License-Identifier: GPL-2.0 */
/* Writes the code pages that the kernel makes: gate fast, gate strict, stub fast, stub strict. */
#include "ept_view_code.c"

int main(void)
{
	for (u32 mode = 0; mode < 2; mode++)
		fwrite(ept_view_make_gate(NULL, mode)->bytes, 1, PAGE_SIZE, stdout);
	for (u32 mode = 0; mode < 2; mode++)
		fwrite(ept_view_make_stub(NULL, mode, KVM_EPT_VIEW_MAP_GVA + 0x40)->bytes, 1,
		       PAGE_SIZE, stdout);
	return !ept_view_entry_in_reach(KVM_EPT_VIEW_MAP_GVA);
}
