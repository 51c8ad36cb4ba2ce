
# The service of the hypercall path: an object of host-nic/kernel-object, whose functions return
# through the kernel's thunk. Where the kernel has one, objtool lists its returns, as it does those
# of all code, and the kernel replaces them as the processor wants it.
ifneq ($(wildcard $(src)/vmx/ept_view_service.o_shipped),)
kvm-intel-y += vmx/ept_view_service.o
CFLAGS_vmx/ept_view_hypercall.o += -DKVM_EPT_VIEW_SERVICE
ifneq ($(CONFIG_RETHUNK)$(CONFIG_MITIGATION_RETHUNK),)
CFLAGS_vmx/ept_view_hypercall.o += -DKVM_EPT_VIEW_SERVICE_RETHUNK
else
kvm-intel-y += vmx/ept_view_returns.o
# Nothing is listed then. Which of the two names counts depends on the kernel.
OBJECT_FILES_NON_STANDARD_ept_view_service.o := y
OBJECT_FILES_NON_STANDARD_vmx/ept_view_service.o := y
endif
quiet_cmd_service = SERVICE $@
      cmd_service = cat $< > $@ $(cmd_objtool)
$(obj)/vmx/ept_view_service.o: $(src)/vmx/ept_view_service.o_shipped FORCE
	$(call if_changed,service)
endif
