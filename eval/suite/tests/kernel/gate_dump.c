/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Writes what the kernel makes, for each right (fast, strict): the offset behind the stub's save of
 * RSP, one word; then for each slot the gate's page and the stub's.
 */
#include "ept_view_code.c"

static void write_page(const struct page *page)
{
	if (!page)
		exit(1);
	fwrite(page->bytes, 1, PAGE_SIZE, stdout);
}

int main(void)
{
	static const u32 rights[] = { KVM_EPT_VIEW_RIGHT_FAST, KVM_EPT_VIEW_RIGHT_STRICT };

	for (unsigned int i = 0; i < 2; i++) {
		u32 saved = ept_view_stub_saved_rsp_at(rights[i]);

		fwrite(&saved, sizeof(saved), 1, stdout);
		for (unsigned int slot = 0; slot < KVM_EPT_VIEW_SLOTS; slot++) {
			write_page(ept_view_make_gate(NULL, rights[i], slot));
			write_page(ept_view_make_stub(NULL, rights[i], slot,
						      KVM_EPT_VIEW_MAP_GVA + 0x40));
		}
	}
	return !ept_view_entry_in_reach(KVM_EPT_VIEW_MAP_GVA);
}
