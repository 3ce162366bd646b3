//! Leaves that no walk of a guest shows: those that only steer the engine, with the test that proves each, and those
//! whose words the docs have.

/// Leaves by the beginning or end of their names, and the test that proves what they do.
pub const BY_TEST: &[(&str, &str)] = &[
    // Of a container they are refused; a machine has rows of them.
    ("network[].model", "a_container_has_no_network_card"),
    ("network[].queues", "a_container_has_no_network_card"),
    ("agent.deadlineSeconds", "a_silent_agent_is_told_in_words_and_recovers"),
    ("application.deadlineSeconds", "a_script_past_its_deadline_is_stopped"),
    ("tests[].deadlineSeconds", "a_script_past_its_deadline_is_stopped"),
    (
        "application.rerunPolicy",
        "a_script_of_every_start_runs_once_for_each_start_of_the_guest",
    ),
    (
        "gpus[].vramShare",
        "two_models_share_a_card_and_the_third_is_refused_with_words",
    ),
    ("gpus[].vramGiB", "shares_in_gib_and_exclusive_cards_count"),
    ("gpus[].exclusive", "shares_in_gib_and_exclusive_cards_count"),
    ("expose[].name", "ports_are_those_of_the_spec_in_slices_by_when"),
    ("expose[].port", "ports_are_those_of_the_spec_in_slices_by_when"),
    ("expose[].targetPort", "ports_are_those_of_the_spec_in_slices_by_when"),
    ("expose[].protocol", "ports_are_those_of_the_spec_in_slices_by_when"),
    ("expose[].appProtocol", "ports_are_those_of_the_spec_in_slices_by_when"),
    ("expose[].when", "ports_are_those_of_the_spec_in_slices_by_when"),
    ("deletionPolicy", "the_deletion_policy_says_whether_the_guest_goes"),
    (
        "dependsOn[].kind",
        "a_long_chain_of_dependencies_waits_and_a_long_circle_is_told",
    ),
    (
        "dependsOn[].name",
        "a_long_chain_of_dependencies_waits_and_a_long_circle_is_told",
    ),
    (
        ".initialDelaySeconds",
        "a_probe_is_due_after_its_delay_and_then_every_period",
    ),
    (".periodSeconds", "a_probe_is_due_after_its_delay_and_then_every_period"),
    (
        ".successThreshold",
        "only_failures_in_a_row_restart_and_readiness_never_does",
    ),
    (
        ".failureThreshold",
        "only_failures_in_a_row_restart_and_readiness_never_does",
    ),
    ("health.restartUnit", "a_unit_is_restarted_where_the_object_names_one"),
    (
        "updatePolicy.restart",
        "changes_are_live_or_wait_for_a_restart_and_nothing_shrinks",
    ),
    (
        "revisionHistoryLimit",
        "an_old_revision_goes_when_the_limit_says_and_nothing_was_cloned_from_it",
    ),
    ("form", "an_edited_form_is_refused_or_built_as_a_new_revision"),
];

/// Leaves with words of `docs/` that say what another value later does.
pub const BY_DOCS: &[(&str, &str, &str)] = &[
    (
        "tests[].kind",
        "kinds.md",
        "`kind` (Health or Integration) is for people to read",
    ),
    (
        "hostMounts[].name",
        "kinds.md",
        "another name at the same path is the same",
    ),
    (
        "volumes[].name",
        "kinds.md",
        "another name at the same path is the same",
    ),
];

/// Leaves that change nothing on a template that is built, with words of `docs/` that say when they count.
pub const NEXT_REVISION: &[(&str, &str, &str)] = &[
    (
        "vmid",
        "kinds.md",
        "A changed `vmid` applies to the next revision's guest",
    ),
    ("tests[].name", "kinds.md", "changed ones with the next revision"),
    ("tests[].script", "kinds.md", "changed ones with the next revision"),
    (
        "tests[].scriptFrom.key",
        "kinds.md",
        "changed ones with the next revision",
    ),
    (
        "tests[].scriptFrom.name",
        "kinds.md",
        "changed ones with the next revision",
    ),
];

/// Leaves whose value stays on the guest when the spec drops it, as `docs/kinds.md` says under "Some dropped values stay".
pub const KEPT: &[(&str, &str)] = &[
    ("hostname", "`hostname`"),
    ("memory", "`memory`"),
    ("machine", "`machine`"),
    ("bios", "`bios`"),
    ("osType", "`osType`"),
    ("scsiController", "`scsiController`"),
    ("serial", "`serial`"),
    ("network[].mac", "`mac`"),
    ("network[].model", "`model`"),
    ("rootfs.size", "sizes"),
    ("disks[].size", "sizes"),
    ("powerState", "`powerState`"),
    ("agent.enabled", "`agent.enabled`"),
];

/// Leaves of a hypervisor: what proves them.
pub const HYPERVISOR: &[(&str, &str)] = &[
    ("allow.", "each_entry_of_allow_is_refused_until_it_is_given"),
    (
        "allowedNamespaces.",
        "a_hypervisor_is_used_by_the_namespaces_that_it_lets_in",
    ),
    (
        "credentials.",
        "an_id_of_a_token_is_checked_and_a_secret_in_its_place_is_not_told",
    ),
    ("driverPolicy", "three_guests_are_healed_one_after_another"),
    ("driftPolicy", "drift_is_only_reported_where_the_hypervisor_says_so"),
    (
        "endpoints[]",
        "when_nothing_answers_the_call_was_not_sent_and_each_endpoint_says_why",
    ),
    ("host.", "what_a_hypervisor_cannot_do_yet_is_told"),
    ("driverVersion", "what_a_hypervisor_cannot_do_yet_is_told"),
    (
        "limits.parallelTasksPerNode",
        "clones_of_one_template_queue_and_others_do_not_wait",
    ),
    (
        "pollInterval",
        "everything_there_is_is_worked_on_and_polls_repeat_and_bring_changes",
    ),
    ("ssh.", "a_wrong_or_unknown_host_key_is_refused_and_both_are_named"),
    ("tls.", "the_pinned_certificate_and_the_ca_are_enforced"),
];

/// Leaves of a feature that change nothing in a guest: what proves or says them.
pub const FEATURE: &[(&str, &str)] = &[
    ("aliases[]", "the_feature_may_come_from_a_template_or_under_an_alias"),
    (
        "deadlineSeconds",
        "a_changed_script_or_parameter_changes_the_hash_and_a_deadline_does_not",
    ),
    ("description", "category_lists_all_kinds_and_prints_their_columns"),
    (
        "parameters[].description",
        "every_field_of_a_spec_is_in_the_page_of_kinds",
    ),
    (
        "health.",
        "the_objects_own_probe_counts_then_vllms_then_the_last_features",
    ),
];
