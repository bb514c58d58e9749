"""Frames as bytes: facts that neither end of MXFlex may change.

The client and the simulator share one set of message classes, so a slip there would fool both.
These bytes do not come from those classes. Each sample names its origin:

- "wire": seen on the wire, in a log, a capture, or an example decoded from a live MX;
- "manual": from a text of the vendor, at second hand;
- "client": sent or read by a client program that worked for its authors;
- "rebuilt": the names and the nesting that clients read, filled with values of a live call; the
  order of the elements is a guess;
- "owner": from the description of the first MXFlex by its owner;
- "form": the way MXFlex itself chooses to write what a source leaves open.
"""

from __future__ import annotations

import attrs

from mxflex.wire import messages
from mxflex.wire.codec import CallAttachedData, ConnectionID
from mxflex.wire.messages import Command, Message


@attrs.frozen(kw_only=True)
class Sample:
    """One frame and what it says; the frame is also, byte for byte, what MXFlex writes for it.

    Attributes:
        name: A word for the test's id.
        origin: Where the bytes come from, see above.
        message: What the frame says.
        frame: Header and body.
        answers: For an answer, the command it belongs to.
    """

    name: str
    origin: str
    message: Message
    frame: bytes
    answers: Command | None = None

    def __str__(self) -> str:
        return self.name


CALL_39 = ConnectionID(call_id=39, device_id="3095")
CALL_56 = ConnectionID(call_id=56, device_id="3095")
GLOBAL_CALL_39 = ConnectionID(call_id=39, device_id="3095", global_call_id="2808630435142227620")
FIRST_CALL = CallAttachedData(name="__FIRST_CALL_ID__", type="string", value="63022-00-0000D-6A4")
JANE = messages.AddressBookEntry(
    jid=43884851147406145,
    presence="Available",
    first_name="Jane",
    last_name="Doe",
    ext="3095",
    cell_phone="+79031744445",
    email="jane@example.org",
    home_system=0,
)
JANE_LOGGED_OUT = attrs.evolve(JANE, presence="LoggedOut")

# From the client to the MX. Id 0001: the first that a client gives out.
COMMANDS: list[Sample] = [
    Sample(
        name="login-user",
        origin="owner: the login of a person; the password is the word password",
        message=messages.LoginRequest(
            type="User",
            platform="CRM",
            version="1.0",
            user_name="user_login",
            password="W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n",
        ),
        frame=(
            b"\x00\x00\x00\x99"
            b"0001"
            b'<loginRequest type="User" platform="CRM" version="1.0"><userName>user_login'
            b"</userName><pwd>W6ph5Mm5Pz8GgiULbPgzG37mj9g=&#xA;</pwd></loginRequest>"
        ),
    ),
    Sample(
        name="login-server",
        origin="client: the attributes of the first MXFlex's permanent session",
        message=messages.LoginRequest(
            type="Server", platform="iPhone", version="1.0", user_name="mxflex", password="secret"
        ),
        frame=(
            b"\x00\x00\x00\x7f"
            b"0001"
            b'<loginRequest type="Server" platform="iPhone" version="1.0"><userName>mxflex'
            b"</userName><pwd>secret</pwd></loginRequest>"
        ),
    ),
    Sample(
        name="login-forced",
        origin="client: the flags of desktop and web clients",
        message=messages.LoginRequest(
            type="User",
            platform="MXIE",
            version="17.0",
            forced=True,
            ab_notify=True,
            user_name="jane",
            password="secret",
        ),
        frame=(
            b"\x00\x00\x00\x98"
            b"0001"
            b'<loginRequest type="User" platform="MXIE" version="17.0" forced="true" '
            b'abNotify="true"><userName>jane</userName><pwd>secret</pwd></loginRequest>'
        ),
    ),
    Sample(
        name="logout",
        origin="client: mdigger/mx",
        message=messages.Logout(),
        frame=(b"\x00\x00\x00\x110001<logout/>"),
    ),
    Sample(
        name="keepalive",
        origin="client: the web client, which numbers it like any command",
        message=messages.KeepAlive(),
        frame=(b"\x00\x00\x00\x140001<keepalive/>"),
    ),
    Sample(
        name="monitor-start",
        origin="client: all",
        message=messages.MonitorStart(device="3095"),
        frame=(
            b"\x00\x00\x00\x65"
            b"0001"
            b"<MonitorStart><monitorObject><deviceObject>3095</deviceObject></monitorObject>"
            b"</MonitorStart>"
        ),
    ),
    Sample(
        name="monitor-start-own",
        origin="client: an empty device is the session's own",
        message=messages.MonitorStart(),
        frame=(
            b"\x00\x00\x00\x61"
            b"0001"
            b"<MonitorStart><monitorObject><deviceObject></deviceObject></monitorObject>"
            b"</MonitorStart>"
        ),
    ),
    Sample(
        name="monitor-stop",
        origin="client: all",
        message=messages.MonitorStop(monitor="1"),
        frame=(
            b"\x00\x00\x00\x4b"
            b"0001"
            b"<MonitorStop><monitorCrossRefID>1</monitorCrossRefID></MonitorStop>"
        ),
    ),
    Sample(
        name="monitor-start-ab",
        origin="client: the first MXFlex; 25 bytes",
        message=messages.MonitorStartAddressBook(),
        frame=(b"\x00\x00\x00\x190001<MonitorStartAb/>"),
    ),
    Sample(
        name="monitor-stop-ab",
        origin="client: the first MXFlex",
        message=messages.MonitorStopAddressBook(),
        frame=(b"\x00\x00\x00\x180001<MonitorStopAb/>"),
    ),
    Sample(
        name="get-addressbook",
        origin="form: clients write the same element with an end tag",
        message=messages.GetAddressBook(index=0),
        frame=(b'\x00\x00\x00\x330001<iq type="get" id="addressbook" index="0"/>'),
    ),
    Sample(
        name="set-presence",
        origin="client: BaseCSTA",
        message=messages.SetPresence(status="BeRightBack", note="back at 5"),
        frame=(
            b"\x00\x00\x00\x58"
            b"0001"
            b'<presence status="BeRightBack"><presenceNote>back at 5</presenceNote>'
            b"</presence>"
        ),
    ),
    Sample(
        name="set-presence-clear-note",
        origin="form: clients write the empty element short",
        message=messages.SetPresence(status="Available", note=""),
        frame=(
            b"\x00\x00\x00\x4d"
            b"0001"
            b'<presence status="Available"><presenceNote></presenceNote></presence>'
        ),
    ),
    Sample(
        name="set-presence-keep-note",
        origin="client: the web client",
        message=messages.SetPresence(status="Available"),
        frame=(b'\x00\x00\x00\x260001<presence status="Available"/>'),
    ),
    Sample(
        name="make-call",
        origin="client: all",
        message=messages.MakeCall(calling_device="3095", called="79031744445"),
        frame=(
            b"\x00\x00\x00\x92"
            b"0001"
            b'<MakeCall><callingDevice typeOfNumber="deviceID">3095</callingDevice>'
            b"<calledDirectoryNumber>79031744445</calledDirectoryNumber></MakeCall>"
        ),
    ),
    Sample(
        name="answer",
        origin="client: mx-http-proxy",
        message=messages.AnswerCall(connection=CALL_39),
        frame=(
            b"\x00\x00\x00\x72"
            b"0001"
            b"<AnswerCall><callToBeAnswered><callID>39</callID><deviceID>3095</deviceID>"
            b"</callToBeAnswered></AnswerCall>"
        ),
    ),
    Sample(
        name="clear",
        origin="client: all",
        message=messages.ClearConnection(connection=CALL_39),
        frame=(
            b"\x00\x00\x00\x86"
            b"0001"
            b"<ClearConnection><connectionToBeCleared><callID>39</callID><deviceID>3095"
            b"</deviceID></connectionToBeCleared></ClearConnection>"
        ),
    ),
    Sample(
        name="hold",
        origin="client: all",
        message=messages.HoldCall(connection=CALL_39),
        frame=(
            b"\x00\x00\x00\x66"
            b"0001"
            b"<HoldCall><callToBeHeld><callID>39</callID><deviceID>3095</deviceID>"
            b"</callToBeHeld></HoldCall>"
        ),
    ),
    Sample(
        name="retrieve",
        origin="client: all",
        message=messages.RetrieveCall(connection=CALL_39),
        frame=(
            b"\x00\x00\x00\x78"
            b"0001"
            b"<RetrieveCall><callToBeRetrieved><callID>39</callID><deviceID>3095</deviceID>"
            b"</callToBeRetrieved></RetrieveCall>"
        ),
    ),
    Sample(
        name="park",
        origin="client: mx-http-proxy",
        message=messages.ParkCall(connection=CALL_39),
        frame=(
            b"\x00\x00\x00\x5c"
            b"0001"
            b"<ParkCall><parking><callID>39</callID><deviceID>3095</deviceID></parking>"
            b"</ParkCall>"
        ),
    ),
    Sample(
        name="blind-transfer",
        origin="client: all",
        message=messages.SingleStepTransferCall(connection=CALL_39, destination="3044"),
        frame=(
            b"\x00\x00\x00\xa1"
            b"0001"
            b"<SingleStepTransferCall><activeCall><callID>39</callID><deviceID>3095"
            b"</deviceID></activeCall><transferredTo>3044</transferredTo>"
            b"</SingleStepTransferCall>"
        ),
    ),
    Sample(
        name="consult-transfer",
        origin="client: mx-http-proxy",
        message=messages.TransferCall(
            connection=CALL_39, active=ConnectionID(call_id=40, device_id="3095")
        ),
        frame=(
            b"\x00\x00\x00\xab"
            b"0001"
            b"<TransferCall><heldCall><callID>39</callID><deviceID>3095</deviceID>"
            b"</heldCall><activeCall><callID>40</callID><deviceID>3095</deviceID>"
            b"</activeCall></TransferCall>"
        ),
    ),
    Sample(
        name="deflect",
        origin="client: mx-http-proxy",
        message=messages.DeflectCall(connection=CALL_39, destination="3044"),
        frame=(
            b"\x00\x00\x00\x99"
            b"0001"
            b"<DeflectCall><callToBeDiverted><callID>39</callID><deviceID>3095</deviceID>"
            b"</callToBeDiverted><newDestination>3044</newDestination></DeflectCall>"
        ),
    ),
    Sample(
        name="start-recording",
        origin="client: mx-http-proxy; Call has a capital",
        message=messages.StartRecording(connection=CALL_39),
        frame=(
            b"\x00\x00\x00\x62"
            b"0001"
            b"<StartRecording><Call><callID>39</callID><deviceID>3095</deviceID></Call>"
            b"</StartRecording>"
        ),
    ),
    Sample(
        name="stop-recording",
        origin="client: mx-http-proxy",
        message=messages.StopRecording(connection=CALL_39),
        frame=(
            b"\x00\x00\x00\x60"
            b"0001"
            b"<StopRecording><Call><callID>39</callID><deviceID>3095</deviceID></Call>"
            b"</StopRecording>"
        ),
    ),
    Sample(
        name="snapshot",
        origin="client: mx-http-proxy",
        message=messages.SnapshotDevice(device="3095"),
        frame=(
            b"\x00\x00\x00\x4e"
            b"0001"
            b"<SnapshotDevice><snapshotObject>3095</snapshotObject></SnapshotDevice>"
        ),
    ),
    Sample(
        name="get-services",
        origin="client: mxproxy",
        message=messages.GetServiceList(),
        frame=(b"\x00\x00\x00\x190001<GetServiceList/>"),
    ),
    Sample(
        name="unknown-command",
        origin="form",
        message=messages.UnknownCommand(name="GetAgentState"),
        frame=(b"\x00\x00\x00\x180001<GetAgentState/>"),
    ),
]

# From the MX, under the id of the command.
REPLIES: list[Sample] = [
    Sample(
        name="login-ok",
        origin="manual: the vendor's older one, as quoted in public",
        message=messages.LoginResponse(
            code=0, serial="12345", api_version=3, ext="1333", text="Login OK"
        ),
        frame=(
            b"\x00\x00\x00\x5d"
            b"0001"
            b'<loginResponce Code="0" sn="12345" apiversion="3" ext="1333">Login OK'
            b"</loginResponce>"
        ),
        answers=messages.LoginRequest(),
    ),
    Sample(
        name="login-expired",
        origin="rebuilt: the attributes that MXFlex reads of an answer seen on the wire",
        message=messages.LoginResponse(
            code=-1,
            serial="63022",
            api_version=20,
            ext="3095",
            user_id=43884851147406145,
            soft_phone_password="9f8e7d",
            text="Password Expired",
        ),
        frame=(
            b"\x00\x00\x00\x98"
            b"0001"
            b'<loginResponce Code="-1" sn="63022" apiversion="20" ext="3095" '
            b'userId="43884851147406145" softPhonePwd="9f8e7d">Password Expired'
            b"</loginResponce>"
        ),
        answers=messages.LoginRequest(),
    ),
    Sample(
        name="login-failed",
        origin="client: the attributes; the words are invented",
        message=messages.LoginFailed(
            code=2, serial="63022", api_version=11, text="Invalid user name or password"
        ),
        frame=(
            b"\x00\x00\x00\x64"
            b"0001"
            b'<loginFailed Code="2" sn="63022" apiversion="11">Invalid user name or password'
            b"</loginFailed>"
        ),
        answers=messages.LoginRequest(),
    ),
    Sample(
        name="logged-out",
        origin="client: the web client expects it",
        message=messages.LoggedOut(mode="normal"),
        frame=(b'\x00\x00\x00\x1f0001<Logout mode="normal"/>'),
        answers=messages.Logout(),
    ),
    Sample(
        name="monitor-started",
        origin="rebuilt",
        message=messages.MonitorStartResponse(monitor="1"),
        frame=(
            b"\x00\x00\x00\x5d"
            b"0001"
            b"<MonitorStartResponse><monitorCrossRefID>1</monitorCrossRefID>"
            b"</MonitorStartResponse>"
        ),
        answers=messages.MonitorStart(device="3095"),
    ),
    Sample(
        name="monitor-stopped",
        origin="client: any name will do; 30 bytes",
        message=messages.Acknowledgement(name="MonitorStopResponse"),
        frame=(b"\x00\x00\x00\x1e0001<MonitorStopResponse/>"),
        answers=messages.MonitorStop(monitor="1"),
    ),
    Sample(
        name="call-made",
        origin="wire: mxproxy",
        message=messages.MakeCallResponse(
            connection=ConnectionID(call_id=25, device_id="3095"), called="1099"
        ),
        frame=(
            b"\x00\x00\x00\x99"
            b"0001"
            b"<MakeCallResponse><callingDevice><callID>25</callID><deviceID>3095</deviceID>"
            b"</callingDevice><calledDevice>1099</calledDevice></MakeCallResponse>"
        ),
        answers=messages.MakeCall(calling_device="3095", called="1099"),
    ),
    Sample(
        name="call-transferred",
        origin="client: mx-http-proxy",
        message=messages.SingleStepTransferCallResponse(
            connection=ConnectionID(call_id=39, device_id="3044")
        ),
        frame=(
            b"\x00\x00\x00\x98"
            b"0001"
            b"<SingleStepTransferCallResponse><transferredCall><callID>39</callID>"
            b"<deviceID>3044</deviceID></transferredCall></SingleStepTransferCallResponse>"
        ),
        answers=messages.SingleStepTransferCall(connection=CALL_39, destination="3044"),
    ),
    Sample(
        name="snapshot-taken",
        origin="form: by ECMA-323, no sample is known",
        message=messages.SnapshotDeviceResponse(
            calls=(messages.DeviceCall(connection=CALL_39, state="connected"),)
        ),
        frame=(
            b"\x00\x00\x01\x9b"
            b"0001"
            b"<SnapshotDeviceResponse><crossRefIDorSnapshotData><snapshotData>"
            b"<snapshotDeviceResponseInfo><connectionIdentifier><callID>39</callID>"
            b"<deviceID>3095</deviceID></connectionIdentifier><localCallState>"
            b"<compoundCallState><localConnectionState>connected</localConnectionState>"
            b"</compoundCallState></localCallState></snapshotDeviceResponseInfo>"
            b"</snapshotData></crossRefIDorSnapshotData></SnapshotDeviceResponse>"
        ),
        answers=messages.SnapshotDevice(device="3095"),
    ),
    Sample(
        name="services",
        origin="rebuilt: values of a live list",
        message=messages.GetServiceListResponse(
            services=(
                messages.Service(id="3458764514472757356", name="voicemail", type="VM", ext="*86"),
            )
        ),
        frame=(
            b"\x00\x00\x00\xd1"
            b"0001"
            b"<GetServiceListResponse><Service><serviceId>3458764514472757356</serviceId>"
            b"<serviceName>voicemail</serviceName><serviceType>VM</serviceType>"
            b"<extension>*86</extension></Service></GetServiceListResponse>"
        ),
        answers=messages.GetServiceList(),
    ),
    Sample(
        name="refused",
        origin="client: the web client",
        message=messages.CSTAError(text="invalidDeviceID", category="operation"),
        frame=(
            b"\x00\x00\x00\x4d"
            b"0001"
            b"<CSTAErrorCode><operation>invalidDeviceID</operation></CSTAErrorCode>"
        ),
        answers=messages.MonitorStart(device="9"),
    ),
    Sample(
        name="denied",
        origin="wire: mxproxy",
        message=messages.CSTAError(text="URM Denied", category="privateErrorCode"),
        frame=(
            b"\x00\x00\x00\x56"
            b"0001"
            b"<CSTAErrorCode><privateErrorCode>URM Denied</privateErrorCode></CSTAErrorCode>"
        ),
        answers=messages.MakeCall(calling_device="3095", called="1099"),
    ),
    Sample(
        name="addressbook-as-answer",
        origin="rebuilt: the page under the id of the command",
        message=messages.AddressBookPage(size=57, index=1, entries=(JANE,)),
        frame=(
            b"\x00\x00\x01\x6a"
            b"0001"
            b'<ablist size="57" index="1">'
            b'<abentry jid="43884851147406145" presence="Available" presenceNote="">'
            b"<firstName>Jane</firstName><lastName>Doe</lastName><businessPhone>3095"
            b"</businessPhone><homePhone></homePhone><cellPhone>+79031744445</cellPhone>"
            b"<email>jane@example.org</email><homeSystem>0</homeSystem><did></did>"
            b"<exchangeId></exchangeId></abentry></ablist>"
        ),
        answers=messages.GetAddressBook(index=1),
    ),
]

# From the MX, under the id 9999.
EVENTS: list[Sample] = [
    Sample(
        name="originated",
        origin="rebuilt: the owner's outgoing call",
        message=messages.OriginatedEvent(
            monitor="1",
            connection=CALL_39,
            calling_device="3095",
            called_device="79031744445",
            local_connection_info="connected",
            cause="normal",
            call_type_flags=36700160,
        ),
        frame=(
            b"\x00\x00\x01\xb1"
            b"9999"
            b"<OriginatedEvent><monitorCrossRefID>1</monitorCrossRefID>"
            b"<originatedConnection><callID>39</callID><deviceID>3095</deviceID>"
            b"</originatedConnection><callingDevice><deviceIdentifier>3095"
            b"</deviceIdentifier></callingDevice><calledDevice><deviceIdentifier>79031744445"
            b"</deviceIdentifier></calledDevice><localConnectionInfo>connected"
            b"</localConnectionInfo><cause>normal</cause><callTypeFlags>36700160"
            b"</callTypeFlags></OriginatedEvent>"
        ),
    ),
    Sample(
        name="diverted",
        origin="rebuilt: the owner's outgoing call",
        message=messages.DivertedEvent(
            monitor="1",
            connection=CALL_39,
            diverting_device="3095",
            new_destination="79031744445",
            cause="normal",
            call_type_flags=170917889,
        ),
        frame=(
            b"\x00\x00\x01\x6e"
            b"9999"
            b"<DivertedEvent><monitorCrossRefID>1</monitorCrossRefID><connection><callID>39"
            b"</callID><deviceID>3095</deviceID></connection><divertingDevice>"
            b"<deviceIdentifier>3095</deviceIdentifier></divertingDevice><newDestination>"
            b"<deviceIdentifier>79031744445</deviceIdentifier></newDestination><cause>normal"
            b"</cause><callTypeFlags>170917889</callTypeFlags></DivertedEvent>"
        ),
    ),
    Sample(
        name="delivered",
        origin="rebuilt: the owner's outgoing call",
        message=messages.DeliveredEvent(
            monitor="1",
            connection=GLOBAL_CALL_39,
            alerting_device="79031744445",
            alerting_display_name="79031744445",
            network_calling_device="3095",
            calling_device="3095",
            calling_display_name="3095",
            called_device="79031744445",
            local_connection_info="alerting",
            cause="normal",
            call_type_flags=170917889,
            cads=(FIRST_CALL,),
        ),
        frame=(
            b"\x00\x00\x03\x56"
            b"9999"
            b"<DeliveredEvent><monitorCrossRefID>1</monitorCrossRefID><connection><callID>39"
            b"</callID><deviceID>3095</deviceID><globalCallID>2808630435142227620"
            b"</globalCallID></connection><alertingDevice><deviceIdentifier>79031744445"
            b"</deviceIdentifier></alertingDevice><alertingDisplayName>79031744445"
            b"</alertingDisplayName><networkCallingDevice><deviceIdentifier>3095"
            b"</deviceIdentifier></networkCallingDevice><callingDevice>"
            b"<deviceIdentifier>3095</deviceIdentifier></callingDevice>"
            b"<callingDisplayName>3095</callingDisplayName><calledDevice>"
            b"<deviceIdentifier>79031744445</deviceIdentifier></calledDevice>"
            b"<lastRedirectionDevice><notRequired/></lastRedirectionDevice>"
            b"<localConnectionInfo>alerting</localConnectionInfo><cause>normal</cause>"
            b"<callTypeFlags>170917889</callTypeFlags>"
            b'<cad name="__FIRST_CALL_ID__" type="string">63022-00-0000D-6A4</cad>'
            b"</DeliveredEvent>"
        ),
    ),
    Sample(
        name="established",
        origin="rebuilt: the owner's outgoing call",
        message=messages.EstablishedEvent(
            monitor="1",
            connection=GLOBAL_CALL_39,
            answering_device="79031744445",
            answering_display_name="79031744445",
            calling_device="3095",
            calling_display_name="3095",
            called_device="79031744445",
            cause="normal",
            call_type_flags=170917889,
            cads=(FIRST_CALL,),
        ),
        frame=(
            b"\x00\x00\x02\xeb"
            b"9999"
            b"<EstablishedEvent><monitorCrossRefID>1</monitorCrossRefID>"
            b"<establishedConnection><callID>39</callID><deviceID>3095</deviceID>"
            b"<globalCallID>2808630435142227620</globalCallID></establishedConnection>"
            b"<answeringDevice><deviceIdentifier>79031744445</deviceIdentifier>"
            b"</answeringDevice><answeringDisplayName>79031744445</answeringDisplayName>"
            b"<callingDevice><deviceIdentifier>3095</deviceIdentifier></callingDevice>"
            b"<callingDisplayName>3095</callingDisplayName><calledDevice>"
            b"<deviceIdentifier>79031744445</deviceIdentifier></calledDevice>"
            b"<lastRedirectionDevice><notRequired/></lastRedirectionDevice><cause>normal"
            b"</cause><callTypeFlags>170917889</callTypeFlags>"
            b'<cad name="__FIRST_CALL_ID__" type="string">63022-00-0000D-6A4</cad>'
            b"</EstablishedEvent>"
        ),
    ),
    Sample(
        name="cleared",
        origin="rebuilt: the owner's outgoing call",
        message=messages.ConnectionClearedEvent(
            monitor="1", connection=CALL_39, releasing_device="3095", cause="normal"
        ),
        frame=(
            b"\x00\x00\x01\x15"
            b"9999"
            b"<ConnectionClearedEvent><monitorCrossRefID>1</monitorCrossRefID>"
            b"<droppedConnection><callID>39</callID><deviceID>3095</deviceID>"
            b"</droppedConnection><releasingDevice><deviceIdentifier>3095</deviceIdentifier>"
            b"</releasingDevice><cause>normal</cause></ConnectionClearedEvent>"
        ),
    ),
    Sample(
        name="service-initiated",
        origin="rebuilt",
        message=messages.ServiceInitiatedEvent(
            monitor="1",
            connection=CALL_56,
            initiating_device="3095",
            local_connection_info="initiated",
            cause="normal",
        ),
        frame=(
            b"\x00\x00\x01\x4d"
            b"9999"
            b"<ServiceInitiatedEvent><monitorCrossRefID>1</monitorCrossRefID>"
            b"<initiatedConnection><callID>56</callID><deviceID>3095</deviceID>"
            b"</initiatedConnection><initiatingDevice><deviceIdentifier>3095"
            b"</deviceIdentifier></initiatingDevice><localConnectionInfo>initiated"
            b"</localConnectionInfo><cause>normal</cause></ServiceInitiatedEvent>"
        ),
    ),
    Sample(
        name="network-reached",
        origin="rebuilt",
        message=messages.NetworkReachedEvent(
            monitor="1",
            connection=CALL_56,
            network_interface_used="190",
            calling_device="3095",
            called_device="79031744445",
            local_connection_info="connected",
            cause="normal",
        ),
        frame=(
            b"\x00\x00\x01\xe3"
            b"9999"
            b"<NetworkReachedEvent><monitorCrossRefID>1</monitorCrossRefID>"
            b"<outboundConnection><callID>56</callID><deviceID>3095</deviceID>"
            b"</outboundConnection><networkInterfaceUsed><deviceIdentifier>190"
            b"</deviceIdentifier></networkInterfaceUsed><callingDevice>"
            b"<deviceIdentifier>3095</deviceIdentifier></callingDevice><calledDevice>"
            b"<deviceIdentifier>79031744445</deviceIdentifier></calledDevice>"
            b"<localConnectionInfo>connected</localConnectionInfo><cause>normal</cause>"
            b"</NetworkReachedEvent>"
        ),
    ),
    Sample(
        name="failed",
        origin="rebuilt",
        message=messages.FailedEvent(
            monitor="1",
            connection=CALL_56,
            calling_device="3095",
            called_device="3044",
            local_connection_info="fail",
            cause="busy",
        ),
        frame=(
            b"\x00\x00\x01\x6c"
            b"9999"
            b"<FailedEvent><monitorCrossRefID>1</monitorCrossRefID><failedConnection>"
            b"<callID>56</callID><deviceID>3095</deviceID></failedConnection><callingDevice>"
            b"<deviceIdentifier>3095</deviceIdentifier></callingDevice><calledDevice>"
            b"<deviceIdentifier>3044</deviceIdentifier></calledDevice>"
            b"<localConnectionInfo>fail</localConnectionInfo><cause>busy</cause>"
            b"</FailedEvent>"
        ),
    ),
    Sample(
        name="held",
        origin="rebuilt: values of a live call",
        message=messages.HeldEvent(
            monitor="1",
            connection=CALL_56,
            holding_device="3095",
            local_connection_info="hold",
            cause="normal",
            call_type_flags=141565955,
            cmds_allowed=376,
        ),
        frame=(
            b"\x00\x00\x01\x66"
            b"9999"
            b"<HeldEvent><monitorCrossRefID>1</monitorCrossRefID><heldConnection><callID>56"
            b"</callID><deviceID>3095</deviceID></heldConnection><holdingDevice>"
            b"<deviceIdentifier>3095</deviceIdentifier></holdingDevice>"
            b"<localConnectionInfo>hold</localConnectionInfo><cause>normal</cause>"
            b"<callTypeFlags>141565955</callTypeFlags><cmdsAllowed>376</cmdsAllowed>"
            b"</HeldEvent>"
        ),
    ),
    Sample(
        name="retrieved",
        origin="rebuilt",
        message=messages.RetrievedEvent(
            monitor="1",
            connection=CALL_56,
            retrieving_device="3095",
            local_connection_info="connected",
            cause="normal",
            call_type_flags=3145728,
        ),
        frame=(
            b"\x00\x00\x01\x65"
            b"9999"
            b"<RetrievedEvent><monitorCrossRefID>1</monitorCrossRefID><retrievedConnection>"
            b"<callID>56</callID><deviceID>3095</deviceID></retrievedConnection>"
            b"<retrievingDevice><deviceIdentifier>3095</deviceIdentifier></retrievingDevice>"
            b"<localConnectionInfo>connected</localConnectionInfo><cause>normal</cause>"
            b"<callTypeFlags>3145728</callTypeFlags></RetrievedEvent>"
        ),
    ),
    Sample(
        name="transferred",
        origin="rebuilt; one r in the name",
        message=messages.TransferredEvent(
            monitor="1",
            connection=CALL_56,
            transferring_device="3095",
            transferred_to_device="3044",
            local_connection_info="null",
            cause="normal",
        ),
        frame=(
            b"\x00\x00\x01\x8a"
            b"9999"
            b"<TransferedEvent><monitorCrossRefID>1</monitorCrossRefID><primaryOldCall>"
            b"<callID>56</callID><deviceID>3095</deviceID></primaryOldCall>"
            b"<transferringDevice><deviceIdentifier>3095</deviceIdentifier>"
            b"</transferringDevice><transferredToDevice><deviceIdentifier>3044"
            b"</deviceIdentifier></transferredToDevice><localConnectionInfo>null"
            b"</localConnectionInfo><cause>normal</cause></TransferedEvent>"
        ),
    ),
    Sample(
        name="parked",
        origin="rebuilt",
        message=messages.ParkedEvent(monitor="1", park_id=3),
        frame=(
            b"\x00\x00\x00\x5f"
            b"9999"
            b"<callParkInfo><monitorCrossRefID>1</monitorCrossRefID><parkID>3</parkID>"
            b"</callParkInfo>"
        ),
    ),
    Sample(
        name="recording",
        origin="rebuilt",
        message=messages.RecordingStateEvent(
            monitor="1",
            connection=ConnectionID(call_id=18, device_id="3095"),
            available=True,
            active=False,
        ),
        frame=(
            b"\x00\x00\x00\xe5"
            b"9999"
            b"<RecordingStateEvent><monitorCrossRefID>1</monitorCrossRefID><connection>"
            b"<callID>18</callID><deviceID>3095</deviceID></connection><RecIsAvailable>true"
            b"</RecIsAvailable><RecIsActive>false</RecIsActive></RecordingStateEvent>"
        ),
    ),
    Sample(
        name="addressbook",
        origin="rebuilt",
        message=messages.AddressBookPage(size=57, index=1, entries=(JANE,)),
        frame=(
            b"\x00\x00\x01\x6a"
            b"9999"
            b'<ablist size="57" index="1">'
            b'<abentry jid="43884851147406145" presence="Available" presenceNote="">'
            b"<firstName>Jane</firstName><lastName>Doe</lastName><businessPhone>3095"
            b"</businessPhone><homePhone></homePhone><cellPhone>+79031744445</cellPhone>"
            b"<email>jane@example.org</email><homeSystem>0</homeSystem><did></did>"
            b"<exchangeId></exchangeId></abentry></ablist>"
        ),
    ),
    Sample(
        name="addressbook-empty",
        origin="form: how a server says so is not known",
        message=messages.AddressBookPage(size=0, index=0),
        frame=(b'\x00\x00\x00\x249999<ablist size="0" index="0"/>'),
    ),
    Sample(
        name="user-added",
        origin="client: the first MXFlex",
        message=messages.AddressBookAdded(entry=JANE_LOGGED_OUT),
        frame=(
            b"\x00\x00\x01\x66"
            b"9999"
            b"<AbAddUserEvent>"
            b'<abentry jid="43884851147406145" presence="LoggedOut" presenceNote="">'
            b"<firstName>Jane</firstName><lastName>Doe</lastName><businessPhone>3095"
            b"</businessPhone><homePhone></homePhone><cellPhone>+79031744445</cellPhone>"
            b"<email>jane@example.org</email><homeSystem>0</homeSystem><did></did>"
            b"<exchangeId></exchangeId></abentry></AbAddUserEvent>"
        ),
    ),
    Sample(
        name="user-changed",
        origin="client: the first MXFlex",
        message=messages.AddressBookChanged(entry=JANE),
        frame=(
            b"\x00\x00\x01\x6c"
            b"9999"
            b"<AbUpdateUserEvent>"
            b'<abentry jid="43884851147406145" presence="Available" presenceNote="">'
            b"<firstName>Jane</firstName><lastName>Doe</lastName><businessPhone>3095"
            b"</businessPhone><homePhone></homePhone><cellPhone>+79031744445</cellPhone>"
            b"<email>jane@example.org</email><homeSystem>0</homeSystem><did></did>"
            b"<exchangeId></exchangeId></abentry></AbUpdateUserEvent>"
        ),
    ),
    Sample(
        name="user-deleted",
        origin="client: the first MXFlex",
        message=messages.AddressBookDeleted(jid=43884851147406145),
        frame=(
            b"\x00\x00\x00\x51"
            b"9999"
            b"<AbDeleteUserEvent><userId>43884851147406145</userId></AbDeleteUserEvent>"
        ),
    ),
    Sample(
        name="presence",
        origin="rebuilt: 94 characters in 98 bytes, so the length field is 106",
        message=messages.Presence(jid=0, status="Available", note="Обед"),
        frame=(
            b"\x00\x00\x00\x6a"
            b"9999"
            b'<presence from="0" status="Available" mxStatus=""><presenceNote>'
            b"\xd0\x9e\xd0\xb1\xd0\xb5\xd0\xb4"
            b"</presenceNote></presence>"
        ),
    ),
    Sample(
        name="presence-of-another",
        origin="client: BaseCSTA",
        message=messages.Presence(
            jid=43884851147406145, status="BeRightBack", mx_status="USER_ACCEPTS_IM", note="lunch"
        ),
        frame=(
            b"\x00\x00\x00\x88"
            b"9999"
            b'<presence from="43884851147406145" status="BeRightBack" '
            b'mxStatus="USER_ACCEPTS_IM"><presenceNote>lunch</presenceNote></presence>'
        ),
    ),
    Sample(
        name="forced-logout",
        origin="client: mdigger/mx; 31 bytes",
        message=messages.LoggedOut(mode="forced"),
        frame=(b'\x00\x00\x00\x1f9999<Logout mode="forced"/>'),
    ),
    Sample(
        name="refused-by-event",
        origin="client: the web client",
        message=messages.CSTAError(text="invalidDeviceID", category="operation"),
        frame=(
            b"\x00\x00\x00\x4d"
            b"9999"
            b"<CSTAErrorCode><operation>invalidDeviceID</operation></CSTAErrorCode>"
        ),
    ),
    Sample(
        name="unknown-event",
        origin="client: mxproxy; MXFlex has no class for it",
        message=messages.UnknownEvent(name="ConfAddEvent"),
        frame=(b"\x00\x00\x00\x179999<ConfAddEvent/>"),
    ),
]

# client: mdigger/mx and its relatives send this constant, 21 bytes.
KEEPALIVE_FRAME = b"\x00\x00\x00\x150000<keepalive />"
