"""The faults that the program withstands, with their tests; `python -m tests.reliability` writes docs/reliability.md.

Tests are named by their functions, so a test may move to another file. ``tests/test_reliability.py`` fails if one is
missing or the document is not current.
"""

import json
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "reliability.md"
FUZZ, SOAK = ROOT / "tests" / "fuzz_results.json", ROOT / "tests" / "soak_results.json"

_HEAD = """# What can go wrong, and what is promised

What can go wrong with videos, lists, disks and machines, and what the program does then. Every promise has tests that
cause the fault on purpose; they run with all others, unless a row says that a test is slow.

"Refused" means that the program prints one line, which starts with `error: `, names the file and says what to do, and
exits with code 1. (This page is written by `python -m tests.reliability` from the table in `tests/reliability.py`.)
"""
_FUZZ_HEAD = """
## Random damage

`tests/fuzz.py` changes one file of a small valid input at random: bytes, lengths, numbers, types of JSON values,
entries of archives. Or it removes the file, or puts a folder in its place. The program must read or refuse the result
within 10 s, and memory may not grow by 1 GB. A few tries of each target are part of the tests (`tests/test_fuzz.py`).
This table is from long runs, `python -m tests.fuzz --tries 20000 --out tests/fuzz_results.json`. Run folders shared
their core with other work: nine tries took longer than 10 s and, repeated alone, 0.1 s. One try found a
fault, which is fixed.

| target | tries | read or refused | other errors | slowest, s | growth of memory, MB |
|---|---|---|---|---|---|
"""

_SOAK_HEAD = """
## Long runs

`python -m tests.soak` trains, scores and finds landmarks for minutes. Memory, open files and threads must stay level.
Each cell shows the largest values in the middle and the last third of the work; the time of a frame is a median.

| work | memory, MB | open files | threads | a frame, ms |
|---|---|---|---|---|
"""

Row = tuple[str, str, tuple[str, ...]]
SECTIONS: dict[str, tuple[Row, ...]] = {
    "Nothing is sent": (
        ("ONNX Runtime sends telemetry", "it is switched off before the library is imported; no device id, no queue",
         ("test_the_onnx_runtime_writes_no_device_id_and_no_queue",)),
        ("a playlist or video names an address", "no connection is opened", ("test_a_playlist_opens_no_connection",)),
        ("a report is opened in a browser", "it fetches nothing, and its policy forbids fetching",
         ("test_nothing_is_fetched",)),
        ("a table or report is shared", "with `--anonymise` it has no names of people or files; the salt is private",
         ("test_no_name_reaches_tables_or_reports_and_scoring_resumes",
          "test_a_salt_that_others_can_read_or_that_is_damaged_is_refused",
          "test_messages_keep_their_words_and_lose_all_spellings")),
    ),
    "Nothing goes wrong silently": (
        ("interlaced video", "one field is shown, never an earlier file; interlaced HEVC is refused",
         ("test_an_interlaced_frame_shows_its_first_field", "test_an_earlier_video_does_not_show_in_an_interlaced_one",
          "test_interlaced_hevc_is_refused", "test_unmarked_woven_fields_give_a_warning")),
        ("all frames are identical", "refused", ("test_a_video_of_identical_frames_is_refused",)),
        ("non-square pixels", "they become square; refused if their shape changes midway",
         ("test_pixels_become_square", "test_pixels_whose_shape_changes_are_refused")),
        ("flags that turn or mirror the picture", "applied", ("test_flags_that_turn_or_mirror_are_honoured",)),
        ("files whose clock counts milliseconds", "the frame rate is exact",
         ("test_a_coarse_clock_does_not_change_a_constant_rate",
          "test_the_rate_of_files_with_a_coarse_clock_is_exact")),
        ("landmarks outside the picture, uncertain or jittering; a turned head",
         "figures in evidence.json, the table and the report, and a warning",
         ("test_points_outside_the_picture_and_unsure_frames_get_warnings",
          "test_turns_of_drawn_faces_are_as_exact_as_stated",
          "test_a_still_face_shows_the_jitter_that_it_was_given",
          "test_turns_beyond_those_of_the_training_clips_are_recognised",
          "test_the_quality_of_a_clip_in_a_folder_follows_from_its_evidence",
          "test_the_report_shows_the_quality")),
        ("saved tracks or a table that match two videos by name", "refused; the missing file is named",
         ("test_tracks_of_one_person_are_not_used_for_another", "test_one_table_is_not_read_for_two_videos",
          "test_the_table_of_a_folder_has_its_whole_name")),
        ("a video, tracks or a table that was replaced after the clip was made", "an error that names `--overwrite`",
         ("test_a_clip_of_a_file_that_was_replaced_is_not_taken_for_the_new_one",)),
        ("mirrored video", "mirrored measures", ("test_mirrored_input_gives_mirrored_measures",)),
        ("a turned head", "no false asymmetry beyond the bound in the report",
         ("test_a_turned_head_shows_no_false_asymmetry_beyond_the_stated_bound",)),
        ("another person in view", "the track ends or a warning says so",
         ("test_another_person_is_never_followed_silently", "test_a_larger_bystander_gives_a_warning",
          "test_a_cut_to_another_shot_ends_the_track_though_the_boxes_overlap")),
        ("a clip that moves unlike the training clips", "a warning in the table and the report",
         ("test_a_clip_unlike_the_training_clips_gets_warnings", "test_other_motion_is_recognised")),
        ("lists that are not Unicode", "refused; the program never writes a damaged list back",
         ("test_older_encodings_are_refused_by_name", "test_other_alphabets_are_refused_by_name",
          "test_names_that_lost_letters_are_refused", "test_a_list_that_cannot_be_read_is_not_written_back",
          "test_a_list_that_is_written_back_keeps_columns_without_a_name")),
        ("an unclosed quotation mark", "refused with its row",
         ("test_an_unclosed_quotation_mark_is_named_with_its_row",)),
        ("one person in two spellings", "one person, or an error; with another order of words or accents, a warning",
         ("test_spellings_that_differ_only_in_invisible_ways_are_one_person",
          "test_one_person_in_two_spellings_is_an_error",
          "test_one_person_on_two_occasions_gives_a_warning")),
        ("a decimal comma without quotation marks",
         "refused with its row; a warning if it fills a column without a name",
         ("test_a_comma_that_is_not_quoted_is_named_with_its_row",
          "test_numbers_in_a_column_without_a_name_are_not_silently_lost")),
        ("99 or −1 for a missing rating, however often; one NA among ratings",
         "an error in each row; the other ratings stay",
         ("test_a_number_that_means_missing_is_named_in_each_row", "test_a_code_is_named_however_often_it_occurs",
          "test_one_missing_cell_does_not_remove_a_rating")),
        ("a rating far from all others: 9 or 33 among 0 to 4", "a warning in each row",
         ("test_a_rating_far_from_all_others_gives_a_warning",)),
        ("#N/A or nan in place of a name; the time between frames in place of a frame rate", "an error in each row",
         ("test_a_missing_name_is_not_a_name", "test_an_impossible_rate_is_named")),
        ("names that a spreadsheet rounded or turned into dates; merged cells, hidden rows, formulas without values",
         "read as they are shown, or refused with their row",
         ("test_a_name_that_a_spreadsheet_took_for_a_date_is_not_a_person",
          "test_a_comma_in_a_name_is_not_a_decimal_comma",
          "test_a_number_that_a_spreadsheet_rounded_is_not_a_person",
          "test_a_workbook_that_lost_a_name_is_refused", "test_merged_cells_are_read_in_all_their_rows",
          "test_the_sheet_that_is_shown_is_read", "test_a_hidden_row_is_named",
          "test_a_formula_without_a_saved_value_is_named")),
        ("one clip listed twice, under two spellings of its path or for two people", "an error in the second row",
         ("test_one_clip_under_two_spellings_of_its_path_is_an_error",
          "test_two_ids_may_share_a_clip_of_one_person_only")),
        ("landmark tables with times in milliseconds, rows out of order, points as fractions, y upwards, x to the "
         "left, two faces",
         "rows are sorted; the rest is refused",
         ("test_what_is_wrong_is_named_with_its_file", "test_rows_out_of_order_are_sorted_or_refused",
          "test_points_that_cannot_be_one_upright_face_in_pixels_are_refused", "test_rows_of_zeros_have_no_face")),
        ("landmark tables with frames without a face, or with a rate that varies",
         "interpolated, cut off or resampled with a warning, and counted in the table of scores",
         ("test_short_gaps_are_interpolated", "test_the_first_and_last_frames_without_a_face_are_cut_off",
          "test_a_table_whose_rate_varies_is_resampled_with_a_warning", "test_a_table_can_be_scored_without_video")),
        ("landmark tables with doubts, such as a tracker that stood still",
         "a warning in scoring, and in training",
         ("test_a_tracker_that_stood_still_gives_a_warning",
          "test_doubts_about_a_table_are_warnings_of_the_data_set")),
        ("colour matrix and range; HDR", "colours are right; a warning for HDR",
         ("test_colours_follow_the_matrix_and_range_of_the_file",
          "test_a_file_without_a_colour_matrix_has_that_of_its_size", "test_high_dynamic_range_gives_a_warning")),
        ("two series of images in one folder, or names in an unclear order; pages of a TIFF file", "refused",
         ("test_images_whose_order_is_unclear_are_refused", "test_images_are_read_in_the_order_of_their_names",
          "test_pages_of_an_image_are_not_lost")),
        ("repeated frames, a rate too slow for a face, a pause in the recording",
         "a warning; a pause of over a second is refused",
         ("test_frames_that_a_camera_did_not_take_give_a_warning",
          "test_repeated_frames_are_known_in_spite_of_lossy_encoding",
          "test_a_rate_too_slow_for_a_face_gives_a_warning", "test_a_pause_of_the_recording_is_named")),
        ("frames that are damaged, or whose key frame was cut off",
         "skipped with a warning; refused if many are damaged",
         ("test_damaged_frames_are_skipped_with_a_warning", "test_a_frame_of_motion_jpeg_with_a_hole_is_skipped",
          "test_a_frame_of_ffv1_with_a_wrong_checksum_is_skipped",
          "test_frames_that_build_on_a_missing_one_are_counted",
          "test_frames_before_the_first_whole_picture_are_skipped",
          "test_frames_that_the_decoder_leaves_out_at_the_start_are_counted")),
        ("H.264 frames that a network lost", "a warning; intact files get none",
         ("test_frames_of_h264_that_are_missing_are_named",
          "test_a_gap_in_the_frame_numbers_of_h264_is_a_missing_frame", "test_whole_h264_gives_no_warning")),
        ("holes in HEVC, VP8 and VP9 files, in which decoders notice no damage", "a warning",
         ("test_holes_in_a_file_are_named_where_the_decoder_notices_nothing",)),
        ("video files joined byte by byte",
         "MPEG of one codec and GIF of one size are read to the end; for others, a warning says what is lost",
         ("test_a_second_video_in_a_file_is_named", "test_joined_files_of_other_kinds_are_read_to_their_end",
          "test_a_second_animation_in_a_file_is_named",
          "test_a_second_video_of_another_codec_in_a_transport_stream_is_named")),
        ("truncated WMV, MPEG-TS and GIF files", "a warning",
         ("test_a_truncated_file_without_an_index_is_named",)),
        ("slow motion and time lapse, even through an edit list", "a warning",
         ("test_slow_motion_and_time_lapse_give_a_warning",
          "test_an_edit_list_that_changes_the_speed_gives_a_warning")),
        ("a damaged frame in an AVI file or in a video of NeuroFace",
         "later frames keep their times; a repetition whose frames lost their numbers is refused",
         ("test_damage_in_an_avi_does_not_shift_the_times_of_later_frames",
          "test_a_damaged_header_of_a_frame_in_an_avi_does_not_shift_later_frames",
          "test_frames_after_a_damaged_one_are_not_read_under_other_numbers",
          "test_frames_that_the_decoder_does_not_see_do_not_shift_the_numbers")),
        ("a rating is corrected, or a person added or removed, after training",
         "the run keeps its split: nobody it was trained on is tested; a missing person is refused",
         ("test_a_run_keeps_its_split_when_the_list_changes",)),
        ("one person with a name for each visit or side; dates whose cells became numbers; a column that is not read",
         "a warning; refused; a warning",
         ("test_one_person_on_two_occasions_gives_a_warning", "test_a_date_whose_cell_became_text_is_not_a_person",
          "test_numbers_with_a_format_of_dates_are_dates",
          "test_a_column_that_was_perhaps_meant_to_be_read_is_named")),
        ("a part of the split without people or clips", "a warning in the list; refused before training",
         ("test_a_split_of_one_part_gives_a_warning", "test_a_part_without_clips_is_refused_before_training")),
        ("ratings that changed before a run is resumed, or that lie beyond its scale in an evaluation; initial weights "
         "trained on the test people", "a warning",
         ("test_ratings_that_changed_after_training_give_a_warning",
          "test_an_evaluation_on_another_scale_gives_a_warning",
          "test_testing_people_who_trained_the_initial_weights_gives_a_warning")),
        ("ratings from which nothing can be learned", "refused before training",
         ("test_ratings_that_teach_nothing_are_refused",)),
        ("a score that is withheld",
         "the table, the report and the count at the end say so; nothing that it could be computed from is shown",
         ("test_a_score_with_a_wide_interval_is_withheld", "test_nothing_gives_a_withheld_score_away")),
        ("the model reads the pictures of only a few frames", "the report's map over time hatches the others",
         ("test_the_map_over_time_tells_the_pictures_that_were_read_from_events_in_the_face",)),
        ("a number of folds beside a published split; options of preprocessing for inputs that are already clips",
         "a warning",
         ("test_a_number_of_folds_beside_a_published_split_gets_a_warning",
          "test_options_of_preprocessing_that_cannot_change_a_clip_are_named")),
        ("a run is evaluated, scored or calibrated while it trains", "a warning",
         ("test_a_run_that_a_program_still_trains_gets_a_warning",)),
        ("12- or 14-bit values in 16-bit images; images of other number types", "a warning; refused with the cure",
         ("test_fewer_bits_in_files_of_sixteen_give_a_warning", "test_images_of_other_numbers_are_named")),
        ("a py-feat table of several videos", "refused", ("test_a_table_of_several_videos_is_refused",)),
        ("a fold without cross-validation; an impossible noise, seed, size or frame rate", "refused",
         ("test_a_rate_that_no_camera_has_is_refused", "test_the_rate_of_images_must_be_one_of_a_camera",
          "test_folds_test_every_subject_once", "test_a_value_that_is_not_allowed_is_refused")),
        ("ratings on a scale of 0 to 100", "a warning before training",
         ("test_a_scale_that_the_recipes_do_not_fit_is_doubted",)),
        ("still clips or zero padding", "scores and their spread are finite",
         ("test_runs_with_still_clips_or_zero_padding_calibrate_and_score",)),
        ("a loss or parameter that is not finite", "training stops; such parameters are never saved",
         ("test_a_loss_that_is_not_finite_stops_the_run", "test_parameters_that_are_not_finite_are_never_saved",
          "test_a_run_that_diverges_keeps_its_checkpoint_and_resumes_from_it")),
        ("initial weights with a NaN or an infinity", "refused",
         ("test_training_does_not_start_from_values_that_are_not_finite",)),
    ),
    "Intact input is read": (
        ("videos trimmed without encoding, edit lists", "read to the end, without hidden frames",
         ("test_a_video_trimmed_without_encoding_is_whole", "test_an_edit_list_hides_frames")),
        ("B-frames, variable rate", "frames are complete and evenly spaced, without a false warning",
         ("test_frames_stored_out_of_order_are_complete_and_evenly_spaced",
          "test_a_whole_video_with_a_variable_rate_gives_no_warning")),
        ("a stream that begins within a file", "the others are read to their end",
         ("test_a_stream_that_begins_within_a_file_stops_nothing",)),
        ("extra data that phones, cameras and recorders append to a video", "ignored",
         ("test_what_else_may_follow_a_video_gives_no_warning", "test_a_long_avi_has_several_parts")),
        ("animated WebP and PNG", "read as videos", ("test_an_animated_image_has_many_frames",)),
        ("decimal commas; `sep=;` or blank lines before the header; paths from Windows and macOS", "read",
         ("test_a_decimal_comma_is_a_point", "test_what_programs_write_before_the_header_is_skipped",
          "test_a_header_with_other_separators_or_invisible_characters_is_read",
          "test_paths_are_found_as_other_systems_spell_them")),
        ("landmark tables that a spreadsheet saved, or that are part of a longer recording", "read",
         ("test_a_table_that_a_spreadsheet_saved_is_read", "test_a_part_of_a_longer_table_is_a_clip",
          "test_beside_a_video_frame_numbers_count_from_its_first_frame")),
        ("checkpoints of other training scripts", "read; every loose tensor is in the report",
         ("test_training_scripts_save_the_same_weights_in_many_ways",
          "test_every_loose_tensor_is_in_the_report_and_on_the_screen",
          "test_further_layers_are_named_and_dropped_only_on_purpose")),
    ),
    "Nothing is lost": (
        ("camcorder and phone videos in a folder, HEIC photographs among images",
         "every video is read; a photograph that cannot be read is named",
         ("test_a_folder_of_videos_expands_to_the_videos",
          "test_photographs_that_cannot_be_read_are_not_left_out")),
        ("folders of videos beside videos; links that lead nowhere", "refused; a broken link fails by name",
         ("test_a_folder_of_videos_is_not_read_in_part", "test_a_link_that_leads_nowhere_is_not_left_out")),
        ("files of other kinds and folders of images beside videos", "a warning names them",
         ("test_what_is_left_out_of_a_folder_is_named",)),
        ("a folder to score has clips beside videos or images, or unfinished clips of a killed process",
         "refused; unfinished clips are skipped", ("test_a_folder_of_clips_and_videos_is_not_read_in_part",)),
        ("rows on a second sheet; columns `id`, `fps` or `video` of videos", "refused",
         ("test_rows_of_a_second_sheet_are_not_lost", "test_a_column_that_would_be_lost_is_refused")),
        ("a list of videos, or a rating in the command, that was changed after the clips were made",
         "a warning names the differences",
         ("test_what_was_changed_in_a_list_is_named",)),
        ("two programs write one table, run, store or folder", "the second is refused; no row is lost",
         ("test_a_second_score_on_one_table_is_refused_and_no_row_is_lost",
          "test_a_second_trainer_on_a_run_is_refused", "test_a_second_pack_into_one_folder_is_refused",
          "test_a_second_preprocess_into_one_folder_is_refused",
          "test_a_shard_and_the_whole_are_not_made_at_once", "test_a_second_calibrate_of_a_run_is_refused")),
        ("a cross-validation that was interrupted, or still runs, is scored or calibrated", "refused",
         ("test_a_cross_validation_that_has_not_ended_is_not_taken_for_all_folds",
          "test_a_cross_validation_that_has_lost_a_fold_is_not_taken_for_all_folds")),
        ("`--overwrite` of a folder that holds the data or the initial weights", "refused",
         ("test_a_run_does_not_overwrite_what_it_reads",)),
        ("a run's folder is deleted while it trains", "an error",
         ("test_a_run_that_is_deleted_meanwhile_is_an_error",)),
        ("full disk or kill while writing", "the old file stays whole, and no lock is left",
         ("test_every_file_is_written_whole", "test_a_full_disk_leaves_the_old_file",
          "test_a_kill_while_writing_leaves_the_old_file_and_no_lock",
          "test_a_converted_file_is_never_missing_while_it_is_replaced", "test_writing_is_all_or_nothing")),
        ("full disk in score, pack or a checkpoint",
         "one line; finished rows and shards stay, and the command can continue later",
         ("test_a_full_disk_loses_no_earlier_row_of_a_table", "test_a_pack_goes_on_after_a_full_disk",
          "test_a_full_disk_is_recognised_in_the_words_of_libraries")),
        ("two containers with equal process numbers write one file", "the file of one of them, whole",
         ("test_two_writers_of_one_file_with_equal_process_numbers_do_not_meet",)),
        ("SIGKILL while training, packing or preprocessing", "resumes to the same bits",
         ("test_a_killed_run_resumes_to_the_same_bits",
          "test_a_run_killed_at_any_moment_resumes_to_the_same_bits",
          "test_a_run_killed_before_its_first_checkpoint_starts_again_from_its_given_weights",
          "test_a_killed_pack_goes_on_where_it_was", "test_a_killed_preprocess_goes_on_where_it_was")),
        ("SIGKILL while a clip is written", "its warnings are not lost; the next run removes the unfinished pictures",
         ("test_a_clip_without_its_evidence_is_made_again", "test_a_killed_preprocess_goes_on_where_it_was",
          "test_what_a_kill_left_of_another_clip_stays")),
        ("`view`, `preprocess --queries`, `export` or `validate --json` into a file that exists",
         "refused without `--overwrite`", ("test_no_file_is_replaced_unasked",)),
        ("a command that is refused", "no folder, lock or salt is left, and no run is replaced or calibrated",
         ("test_a_refused_command_leaves_no_salt_and_no_folder", "test_a_lock_removes_the_folders_that_it_made",
          "test_collecting_nothing_writes_nothing",
          "test_a_run_that_is_refused_replaces_no_other", "test_a_calibration_that_is_refused_changes_nothing")),
        ("an output below a file", "refused before any work; missing folders are created",
         ("test_an_output_below_a_file_is_refused_before_any_work", "test_the_folders_of_an_output_are_created")),
        ("names of up to 255 bytes", "temporary files, locks, clips and reports have shorter names",
         ("test_a_long_name_can_be_written_and_locked", "test_the_report_of_a_long_name_is_written",
          "test_a_name_with_the_prefix_of_its_folder_is_not_too_long")),
        ("a run continues on another number of devices or processes",
         "from the same state; losses end within 1e-4, weights within 1e-5 of an uninterrupted run (slow tests)",
         ("test_a_checkpoint_is_restored_on_another_number_of_devices",
          "test_a_run_goes_on_with_another_number_of_processes")),
        ("links, and ~ in options", "followed: the link stays, and the file or run that it leads to is written",
         ("test_a_link_stays_and_its_file_is_replaced", "test_only_a_run_is_overwritten",
          "test_an_option_of_a_command_may_begin_with_a_tilde")),
        ("SIGTERM at any time", "one line that says how to continue",
         ("test_sigterm_outside_of_the_training_steps_says_how_to_continue",
          "test_an_interrupted_run_saves_its_state_and_resumes")),
        ("a damaged compiled program in the cache", "it is compiled and written again",
         ("test_a_damaged_compiled_program_is_compiled_and_written_again",)),
        ("one file under several spellings of its path; files of one name in two folders",
         "one row and one report for each file",
         ("test_spellings_of_a_path_share_one_row_and_one_report",
          "test_a_table_keeps_apart_equal_names_in_two_folders")),
        ("an input that has a score is scored again and fails", "the earlier score stays; the exit code is 1",
         ("test_a_failed_attempt_deletes_no_score",)),
        ("two models score one file", "each has its report",
         ("test_reports_of_two_models_do_not_overwrite_each_other",)),
        ("`score --collect` while a shard runs, or after it was stopped", "refused",
         ("test_unfinished_shards_are_not_joined",)),
    ),
    "One bad input does not stop the rest": (
        ("files that declare gigabytes", "refused before they are unpacked",
         ("test_a_workbook_that_would_fill_the_memory_is_refused",
          "test_a_list_that_would_fill_the_memory_is_refused", "test_tracks_that_unpack_to_gigabytes_are_refused",
          "test_an_image_that_declares_a_huge_size_is_refused",
          "test_an_animation_that_declares_a_huge_size_is_refused",
          "test_a_png_whose_chunk_declares_gigabytes_is_refused",
          "test_an_array_that_declares_more_than_its_file_holds_is_refused")),
        ("pipes among images", "refused", ("test_what_is_not_a_file_is_not_an_image",)),
        ("damaged or changed JSON", "refused, whatever was changed",
         ("test_what_is_not_json_is_named", "test_every_change_of_a_calibration_is_a_users_error",
          "test_every_change_of_a_configuration_is_a_users_error",
          "test_every_change_of_the_evidence_is_a_users_error",
          "test_every_change_of_a_manifest_is_a_users_error")),
        ("damaged or edited predictions and outcomes of a study", "refused",
         ("test_predictions_come_back_as_they_were_written", "test_an_outcome_that_says_nothing_is_named")),
        ("a manifest that leads out of its folder", "refused",
         ("test_a_manifest_does_not_lead_out_of_its_folder",)),
        ("a packed store whose arrays do not fit each other", "refused; the record is named",
         ("test_a_record_whose_arrays_do_not_fit_each_other_is_refused",)),
        ("hostile checkpoints and pickles", "nothing in a file is run; refused",
         ("test_hostile_file_runs_nothing_and_writes_nothing",
          "test_any_instructions_end_in_data_or_an_error_for_the_user", "test_files_are_never_executed")),
        ("a stranger's run whose checkpoint declares gigabytes, or whose record was changed", "refused",
         ("test_a_checkpoint_that_declares_huge_chunks_is_refused", "test_the_record_of_a_checkpoint_is_checked")),
        ("an input that cannot be read", "its row says why; the other inputs are scored",
         ("test_the_command_skips_failures_and_inputs_already_in_the_table",
          "test_a_failing_library_does_not_stop_other_inputs")),
        ("letters that the terminal cannot show; a name that is not Unicode, or begins with a dash",
         "shown as codes; refused by name; read",
         ("test_letters_that_a_terminal_cannot_show_do_not_stop_a_program",
          "test_a_name_that_is_not_unicode_is_refused_and_the_others_are_scored",
          "test_an_input_may_begin_with_a_dash")),
        ("cells that a spreadsheet would run as formulas", "written so that they do not run, and read back unchanged",
         ("test_no_spreadsheet_runs_a_cell_and_it_reads_as_it_was",)),
        ("tracks with points at impossible places", "these points count as hidden",
         ("test_tracks_at_impossible_places_count_as_hidden",)),
        ("random damage of any file", "read or refused", ("test_only_our_own_error_comes_out",)),
    ),
    "A fresh machine": (
        ("no desktop libraries (libGL)", "both commands of the README work",
         ("test_no_library_of_a_desktop_is_needed",)),
        ("a system library is missing", "one line with the command that installs it",
         ("test_a_missing_library_of_the_system_is_named_with_its_cure",)),
        ("a disk or network share fails; there is a file in place of a folder", "one line with the path and what to do",
         ("test_an_error_of_the_system_about_a_file_has_a_cure",
          "test_a_file_where_a_folder_must_be_is_named")),
        ("a bug of ours", "keeps its traceback and asks for a report",
         ("test_a_bug_passes_through_with_a_request_to_report_it", "test_a_bug_keeps_its_traceback")),
    ),
}  # fmt: skip


def homes() -> dict[str, str]:
    """The file of each test function."""
    return {
        name: f"tests/{path.name}"
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


def document() -> str:
    """The text of docs/reliability.md.

    Raises:
      KeyError: there is no test of that name.
    """
    home, lines = homes(), [_HEAD]
    for heading, rows in SECTIONS.items():
        lines.append(f"\n## {heading}\n\n| fault | promise | tests |\n|---|---|---|\n")
        for fault, promise, tests in rows:
            names = "<br>".join(f"`{home[test]}::{test}`" for test in tests)
            lines.append(f"| {fault} | {promise} | {names} |\n")
    lines.append(_FUZZ_HEAD)
    for name, found in json.loads(FUZZ.read_text()).items():
        lines.append(
            f"| {name} | {found['tries']:,} | {found['tries'] - found['findings']:,} | {found['findings']} | "
            f"{found['slowest']:.1f} | {found['megabytes']:.0f} |\n"
        )
    lines.append(_SOAK_HEAD)
    for name, found in json.loads(SOAK.read_text()).items():
        cells = (found[key] for key in ("megabytes", "files", "threads", "frame_ms"))
        shown = (f"{cell[0]:.0f}, {cell[1]:.0f}" if cell else "" for cell in cells)
        lines.append(f"| {name} | {' | '.join(shown)} |\n")
    return "".join(lines)


if __name__ == "__main__":
    DOCUMENT.write_text(document(), encoding="utf-8")
